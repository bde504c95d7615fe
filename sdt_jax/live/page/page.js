// The controls of the page.

import { Figure } from "./figure.js";
import { Session } from "./session.js";
import { Microphone, Recording } from "./sources.js";

const element = (id) => document.getElementById(id);

function report(text, failed = false) {
  element("state").textContent = text;
  element("state").classList.toggle("error", failed);
}

async function getHello() {
  const response = await fetch("hello");
  const message = await response.json();
  if (!response.ok) throw new Error(message.detail);
  return message;
}

function main(hello) {
  const figure = new Figure(element("figure"), hello.figure);
  figure.draw(hello.rest.flat());
  let session = null;
  let latency = null;

  function begin(source) {
    session?.stop(null);
    latency = null;
    report("Connecting");
    element("stop").disabled = false;
    session = new Session(hello, source, {
      onState: report,
      onFrame(pose, late, shown, dropped) {
        figure.draw(pose);
        latency = latency === null ? late : 0.9 * latency + 0.1 * late;
        element("latency").textContent = `${Math.round(latency)} ms`;
        element("shown").textContent = shown;
        element("dropped").textContent = dropped;
      },
      onEnd(error) {
        element("stop").disabled = true;
        report(error || "Ready", Boolean(error));
      },
    });
    session.template = template();
  }

  function template() {
    if (!hello.templates) return null;
    return {
      type: "template",
      template: row("first"),
      blend_with: row("second"),
      weight: Number(element("weight").value),
    };
  }

  function row(id) {
    const value = Math.round(Number(element(id).value));
    return Math.max(0, Math.min(hello.templates - 1, value));
  }

  function drawRow(id) {
    element(id).value = Math.floor(Math.random() * hello.templates);
  }

  element("microphone").onclick = () => begin(new Microphone(hello));
  element("sound").onclick = () => {
    const data = fetch("sound.wav").then((response) => response.arrayBuffer());
    begin(new Recording(hello, hello.sound, data));
  };
  element("choose").onclick = () => element("file").click();
  element("file").onchange = ({ target }) => {
    const [file] = target.files;
    if (file) begin(new Recording(hello, file.name, file.arrayBuffer()));
    target.value = "";
  };
  element("stop").onclick = () => session.stop(null);

  if (hello.sound) {
    element("sound").textContent = `Play ${hello.sound}`;
    element("sound").hidden = false;
  }
  if (hello.templates) {
    for (const id of ["first", "second"]) {
      element(id).max = hello.templates - 1;
      drawRow(id);
    }
    for (const id of ["first", "second", "weight"]) {
      element(id).oninput = () => session?.setTemplate(template());
    }
    element("random").onclick = () => {
      drawRow("first");
      element("weight").value = 0;
      session?.setTemplate(template());
    };
    element("templates").hidden = false;
  }
  report("Ready");
}

getHello().then(main, (error) => report(error.message, true));
