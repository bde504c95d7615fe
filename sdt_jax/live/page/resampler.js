// Changes the sample rate of a sound that comes in pieces: band-limited interpolation
// with a Hann window, which removes what the lower rate cannot represent.

const ZEROS = 16; // zero crossings of the filter on each side

export class Resampler {
  constructor(from, to) {
    this.step = from / to;
    this.cutoff = Math.min(1, to / from);
    this.reach = Math.ceil(ZEROS / this.cutoff);
    this.input = new Float32Array(this.reach); // silence before the sound
    this.position = this.reach; // of the next output sample, in `input`
  }

  // Float32Array -> Float32Array: the samples that the input so far determines.
  feed(samples) {
    const input = new Float32Array(this.input.length + samples.length);
    input.set(this.input);
    input.set(samples, this.input.length);
    const output = [];
    for (; this.position + this.reach < input.length; this.position += this.step) {
      output.push(this.interpolate(input));
    }
    const unused = Math.floor(this.position) - this.reach;
    this.input = input.slice(unused);
    this.position -= unused;
    return Float32Array.from(output);
  }

  interpolate(input) {
    const middle = Math.floor(this.position);
    let sum = 0;
    for (let i = middle - this.reach + 1; i <= middle + this.reach; i++) {
      const x = (i - this.position) * this.cutoff;
      if (Math.abs(x) >= ZEROS) continue;
      const sinc = x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
      sum += input[i] * sinc * (0.5 + 0.5 * Math.cos((Math.PI * x) / ZEROS));
    }
    return sum * this.cutoff;
  }
}
