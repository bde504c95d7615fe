// Runs in the browser's audio thread: passes the microphone's sound, as mono, to the page
// in pieces of about 30 ms.

const PIECES_PER_SECOND = 32;

class Microphone extends AudioWorkletProcessor {
  waiting = [];

  process([channels]) {
    if (channels.length) {
      const mean = (_, i) => channels.reduce((sum, c) => sum + c[i], 0) / channels.length;
      this.waiting.push(...channels[0].map(mean));
    }
    if (this.waiting.length * PIECES_PER_SECOND >= sampleRate) {
      this.port.postMessage(Float32Array.from(this.waiting));
      this.waiting = [];
    }
    return true;
  }
}

registerProcessor("microphone", Microphone);
