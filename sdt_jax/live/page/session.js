// One connection to the server, from the first sound to the last frame.

const HEADER = 12; // bytes: first frame, number of frames, frames dropped
const KEEP = 300; // frames that wait to be shown; more arrive while the tab is hidden

export class Session {
  // onFrame(pose, latency in ms, shown, dropped); onState(text); onEnd(error or null).
  constructor(hello, source, { onFrame, onState, onEnd }) {
    Object.assign(this, { hello, source, onFrame, onState, onEnd });
    this.frames = new Map(); // number -> pose
    this.sent = []; // [number of samples so far, when], of each piece
    this.samples = 0;
    this.shown = 0;
    this.total = Infinity; // number of frames
    const url = new URL("stream", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = ({ data }) => this.receive(data);
    this.socket.onclose = ({ code, reason }) => {
      if (code !== 1000) this.stop(reason || "The connection to the server was lost.");
    };
  }

  receive(data) {
    if (data instanceof ArrayBuffer) return this.addFrames(data);
    const message = JSON.parse(data);
    if (message.type === "hello") this.start();
    if (message.type === "finished") this.total = message.frames;
  }

  async start() {
    const finish = () => this.send({ type: "finish" });
    try {
      this.setTemplate(this.template);
      await this.source.start((samples) => this.sendSound(samples), finish);
      if (this.stopped) return this.source.stop();
      this.onState(this.source.label);
      this.show();
    } catch (error) {
      this.stop(error.message);
    }
  }

  // The message of type "template", or null for a model without templates.
  setTemplate(message) {
    this.template = message;
    if (message) this.send(message);
  }

  send(message) {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    this.socket.send(message instanceof ArrayBuffer ? message : JSON.stringify(message));
  }

  sendSound(samples) {
    const pcm = new DataView(new ArrayBuffer(2 * samples.length));
    samples.forEach((value, i) => {
      pcm.setInt16(2 * i, 32767 * Math.max(-1, Math.min(1, value)), true);
    });
    this.send(pcm.buffer);
    this.samples += samples.length;
    this.sent.push([this.samples, performance.now()]);
    if (this.sent.length > 10 * KEEP) this.sent.shift();
  }

  addFrames(data) {
    const [first, count] = new Uint32Array(data, 0, 2);
    const size = this.hello.dims * this.hello.joints.length;
    for (let i = 0; i < count; i++) {
      this.frames.set(first + i, new Float32Array(data, HEADER + 4 * size * i, size));
      this.frames.delete(first + i - KEEP);
    }
    this.source.arrived(first, performance.now());
  }

  // Called for every picture of the screen.
  show() {
    if (this.stopped) return;
    const now = performance.now();
    const due = this.source.frameAt(now);
    const ready = [...this.frames.keys()].filter((number) => number <= due);
    if (ready.length) this.showFrame(Math.max(...ready), now);
    ready.forEach((number) => this.frames.delete(number));
    if (due >= this.total) return this.stop(null);
    requestAnimationFrame(() => this.show());
  }

  showFrame(number, now) {
    const sample = (number * this.hello.sample_rate) / this.hello.fps;
    while (this.sent.length > 1 && this.sent[0][0] <= sample) this.sent.shift();
    this.shown += 1;
    const dropped = number + 1 - this.shown;
    this.onFrame(this.frames.get(number), now - this.sent[0][1], this.shown, dropped);
  }

  stop(error) {
    if (this.stopped) return;
    this.stopped = true;
    this.source.stop();
    this.socket.close(1000);
    this.onEnd(error);
  }
}
