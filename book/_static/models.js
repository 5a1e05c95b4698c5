// A run's decoders and its judge, on a page. sa_lib/playground.py writes the files that are fetched; they lie in
// playground/ beside this module.

import { SIDE } from "./elements.js";

export const CLASSES = 10;

/** The label vector of one class alone. */
export const oneHot = (label) => Array.from({ length: CLASSES }, (_, k) => Number(k === label));

/** The run's models, judge, targets and presets, fetched from the folder at `base`. */
export async function load(base = new URL("playground/", import.meta.url)) {
  const [text, buffer] = await Promise.all(["playground.json", "playground.bin"].map(async (name) => {
    const answer = await fetch(new URL(name, base));
    if (!answer.ok) throw new Error(answer.status === 404
      ? "The playground needs the mlp models, and this run has none."
      : `The playground's models could not be fetched: ${answer.status} ${answer.statusText}.`);
    return name.endsWith(".json") ? answer.json() : answer.arrayBuffer();
  }));
  const numbers = fromHalves(buffer);
  const at = ({ offset, shape }) => numbers.subarray(offset / 2, offset / 2 + shape.reduce((a, b) => a * b));
  const layer = ({ weight, bias }) => (
    { weight: at(weight), bias: at(bias), outputs: weight.shape[0], inputs: weight.shape[1] });
  const images = at(text.targets.images);
  return {
    ...text,
    latent: text.models[0].layers[0].weight.shape[1] - CLASSES,
    models: text.models.map((model) => ({ ...model, layers: model.layers.map(layer) })),
    judge: { convolutions: text.judge.convolutions.map(layer), head: layer(text.judge.head) },
    targets: text.targets.labels.map((label, n) => (
      { label, image: images.subarray(n * SIDE * SIDE, (n + 1) * SIDE * SIDE) })),
  };
}

/** Float16, little-endian, as Float32Array; not every browser can read it by itself. */
function fromHalves(buffer) {
  const view = new DataView(buffer);
  const numbers = new Float32Array(buffer.byteLength / 2);
  for (let n = 0; n < numbers.length; n++) {
    const bits = view.getUint16(2 * n, true);
    const exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const size = exponent ? (1024 + fraction) * 2 ** (exponent - 25) : fraction * 2 ** -24;
    numbers[n] = bits >> 15 ? -size : size;
  }
  return numbers;
}

/** Places of the values that are wanted. */
export function places(x, wanted) {
  const found = [];
  x.forEach((value, n) => { if (wanted(value)) found.push(n); });
  return found;
}

/** Inputs that are 0, as many are behind a ReLU, are left out. */
function linear({ weight, bias, inputs }, x) {
  const alive = places(x, (value) => value !== 0), some = Float32Array.from(alive, (i) => x[i]);
  return bias.map((shift, o) => {
    // Two sums at once do not wait for each other.
    let even = shift, odd = 0, n = 1;
    for (const w = o * inputs; n < some.length; n += 2) {
      even += weight[w + alive[n - 1]] * some[n - 1];
      odd += weight[w + alive[n]] * some[n];
    }
    return even + odd + (some.length % 2 ? weight[o * inputs + alive[n - 1]] * some[n - 1] : 0);
  });
}

export const mean = (x) => x.reduce((a, b) => a + b) / x.length;
const relu = (x) => x.map((value) => Math.max(0, value));
const sigmoid = (x) => x.map((value) => 1 / (1 + Math.exp(-value)));

export function normalized(shares) {
  const sum = shares.reduce((a, b) => a + b);
  return shares.map((share) => share / sum);
}

export function softmax(x) {
  const most = Math.max(...x);
  return normalized(Array.from(x, (value) => Math.exp(value - most)));
}

/** Values of the decoder's layers for z and y; the last are the image's 784 pixels, 0-1. */
export function layersOf({ layers: [first, second, third] }, z, y) {
  const narrow = relu(linear(first, Float32Array.from([...z, ...y])));
  const wide = relu(linear(second, narrow));
  return [narrow, wide, sigmoid(linear(third, wide))];
}

/** The image that a model draws for z and y. */
export const decode = (model, z, y) => layersOf(model, z, y)[2];

/** Squared error, summed over pixels: chapter 5's. */
export const squaredError = (image, target) =>
  image.reduce((sum, value, n) => sum + (value - target[n]) ** 2, 0);

/** A 3x3 convolution of stride 2 on maps with a border of one zero, and a ReLU. */
function convolution({ weight, bias, inputs, outputs }, maps, side) {
  const edge = side + 2, half = Math.ceil(side / 2);
  const padded = new Float32Array(inputs * edge * edge);
  for (let i = 0; i < inputs; i++)
    for (let row = 0; row < side; row++)
      padded.set(maps.subarray((i * side + row) * side, (i * side + row + 1) * side),
        (i * edge + row + 1) * edge + 1);
  const out = new Float32Array(outputs * half * half);
  for (let o = 0; o < outputs; o++) {
    const map = out.subarray(o * half * half, (o + 1) * half * half).fill(bias[o]);
    for (let i = 0; i < inputs; i++) {
      const w = (o * inputs + i) * 9;
      const a = weight[w], b = weight[w + 1], c = weight[w + 2], d = weight[w + 3], e = weight[w + 4];
      const f = weight[w + 5], g = weight[w + 6], h = weight[w + 7], k = weight[w + 8];
      for (let row = 0, n = 0; row < half; row++)
        for (let p = (i * edge + 2 * row) * edge, q = p + edge, r = q + edge, end = p + 2 * half; p < end;
          p += 2, q += 2, r += 2, n++)
          map[n] += a * padded[p] + b * padded[p + 1] + c * padded[p + 2] + d * padded[q] + e * padded[q + 1]
            + f * padded[q + 2] + g * padded[r] + h * padded[r + 1] + k * padded[r + 2];
    }
  }
  return relu(out);
}

/** The judge's probabilities of the ten digits and of "not a digit". */
export function judged({ convolutions, head }, image) {
  let maps = image, side = SIDE;
  for (const layer of convolutions) {
    maps = convolution(layer, maps, side);
    side = Math.ceil(side / 2);
  }
  return softmax(linear(head, maps));
}
