// Where sound comes from. `start(send, end)` calls `send` with mono Float32Arrays at the
// models' rate, then `end()`. `arrived(first, now)` is called when frames have arrived,
// and `frameAt(now)` is the frame to be shown; times are in ms.

import { Resampler } from "./resampler.js";

class Source {
  constructor({ sample_rate, fps }) {
    this.rate = sample_rate;
    this.fps = fps;
    this.context = new AudioContext(); // while the click allows it
    this.begin = Infinity; // when frame 0 is to be shown
  }

  stop() {
    if (this.context.state !== "closed") this.context.close();
  }
}

export class Microphone extends Source {
  label = "Listening";

  async start(send) {
    if (!navigator.mediaDevices) {
      throw new Error("Browsers give the microphone only to https pages and localhost.");
    }
    this.stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    await this.context.audioWorklet.addModule("microphone.js");
    if (this.context.state === "closed") return this.stop();
    // Firefox does not resample a microphone.
    const resampler = new Resampler(this.context.sampleRate, this.rate);
    const node = new AudioWorkletNode(this.context, "microphone");
    node.port.onmessage = ({ data }) => send(resampler.feed(data));
    this.context.createMediaStreamSource(this.stream).connect(node);
  }

  // Frames come in groups. They are shown at an even pace, as early as they allow.
  arrived(first, now) {
    const begin = now - (1000 * first) / this.fps;
    if (begin > this.begin || this.begin === Infinity) this.begin = begin;
    else this.begin += 0.05 * (begin - this.begin);
  }

  frameAt(now) {
    return Math.floor(((now - this.begin) / 1000) * this.fps);
  }

  stop() {
    this.stream?.getTracks().forEach((track) => track.stop());
    super.stop();
  }
}

const MARGIN = 0.15; // seconds by which frames may be later than the first ones

export class Recording extends Source {
  // data: promise of an ArrayBuffer with a sound file.
  constructor(hello, name, data) {
    super(hello);
    this.label = `Playing ${name}`;
    this.data = data;
  }

  async start(send, end) {
    const data = await this.data;
    const decoder = new OfflineAudioContext(1, 1, this.rate);
    const samples = mono(await decoder.decodeAudioData(data.slice(0)));
    this.sound = await this.context.decodeAudioData(data);
    const start = performance.now();
    let sent = 0;
    this.timer = setInterval(() => {
      const due = ((performance.now() - start) / 1000) * this.rate;
      const most = sent + this.rate / 4; // after a pause, it catches up in pieces
      const piece = samples.subarray(sent, Math.min(due, most));
      if (piece.length) send(piece);
      sent += piece.length;
      if (sent === samples.length) {
        clearInterval(this.timer);
        end();
      }
    }, 30);
  }

  // The sound begins when the first frames are there.
  arrived() {
    if (this.begin !== Infinity) return;
    this.begin = this.context.currentTime + MARGIN;
    const node = new AudioBufferSourceNode(this.context, { buffer: this.sound });
    node.connect(this.context.destination);
    node.start(this.begin);
  }

  frameAt() {
    const heard = this.context.currentTime - (this.context.outputLatency || 0);
    return Math.floor((heard - this.begin) * this.fps);
  }

  stop() {
    clearInterval(this.timer);
    super.stop();
  }
}

function mono(sound) {
  const sum = new Float32Array(sound.length);
  for (let c = 0; c < sound.numberOfChannels; c++) {
    sound.getChannelData(c).forEach((value, i) => (sum[i] += value));
  }
  return sum.map((value) => value / sound.numberOfChannels);
}
