// Runs in the browser's audio thread: sends the microphone's sound, at the rate of the
// models, to the page in pieces of 32 ms.

import { Resampler } from "./resampler.js";

const PIECE = 512;

class Resampled extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    this.resampler = new Resampler(sampleRate, processorOptions.sampleRate);
    this.waiting = [];
  }

  process([channels]) {
    if (!channels.length) return true;
    const mono = channels[0].map(
      (_, i) => channels.reduce((sum, c) => sum + c[i], 0) / channels.length,
    );
    this.waiting.push(...this.resampler.feed(mono));
    if (this.waiting.length >= PIECE) {
      this.port.postMessage(Float32Array.from(this.waiting));
      this.waiting = [];
    }
    return true;
  }
}

registerProcessor("microphone", Resampled);
