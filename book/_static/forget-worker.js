// Makes a decoder forget a class, in a worker of the page "Playground": Adam on the terms of sa_lib/methods.py.
// It has no encoder and no data. So it replays what the frozen decoder draws for z ~ N(0, I), under the binary
// cross-entropy alone, and takes the Fisher information of that decoder from images drawn from it.

import { normal, uniform } from "./random.js";

const CLASSES = 10;
const GRAY = 0.5;
const RISE = 0.2;  // the share of the steps in which the learning rate rises; then it falls to 0
const [DECAY, DECAY_SQUARES, EPSILON] = [0.9, 0.999, 1e-8];  // of Adam (Kingma & Ba 2015)
const EVERY = 5;  // steps between two sheets of drawings

// Layers --------------------------------------------------------------------------------------
// A layer's weights are one matrix, with a row for each input and the biases as its last row. Most inputs of the later
// layers are 0, behind a ReLU, and their rows are left out of every sum.

/** A layer of the page's models, which has a row for each output, in this form. */
function turned({ weight, bias, inputs, outputs }) {
  const rows = new Float32Array((inputs + 1) * outputs);
  for (let o = 0; o < outputs; o++)
    for (let i = 0; i < inputs; i++) rows[i * outputs + o] = weight[o * inputs + i];
  rows.set(bias, inputs * outputs);
  return { rows, inputs, outputs };
}

/** The inverse of `turned`. */
function turnedBack({ rows, inputs, outputs }) {
  const weight = new Float32Array(inputs * outputs);
  for (let o = 0; o < outputs; o++)
    for (let i = 0; i < inputs; i++) weight[o * inputs + i] = rows[i * outputs + o];
  return { weight, bias: rows.slice(inputs * outputs), inputs, outputs };
}

const MOST = 2048;  // more rows than a layer has inputs, or a batch images

/** A sum of rows of a matrix: which of them, and the factor of each. */
class Sum {
  constructor() {
    Object.assign(this, { starts: new Int32Array(MOST), factors: new Float64Array(MOST), count: 0 });
  }

  add(start, factor) {
    this.starts[this.count] = start;
    this.factors[this.count++] = factor;
  }

  /** Add the sum to out[at], out[at + 1] ... and empty it. Four rows at once save three of four writes. */
  into(out, at, matrix, width) {
    const { starts, factors } = this;
    while (this.count % 4) this.add(0, 0);
    for (let n = 0; n < this.count; n += 4) {
      const a = factors[n], b = factors[n + 1], c = factors[n + 2], d = factors[n + 3];
      let p = starts[n], q = starts[n + 1], r = starts[n + 2], s = starts[n + 3];
      for (let o = at; o < at + width; o++)
        out[o] += a * matrix[p++] + b * matrix[q++] + c * matrix[r++] + d * matrix[s++];
    }
    this.count = 0;
  }
}

const sum = new Sum();

/** The outputs of a layer for `count` rows of inputs x. */
function forward({ rows, inputs, outputs }, x, count) {
  const out = new Float32Array(count * outputs), biases = rows.subarray(inputs * outputs);
  for (let n = 0; n < count; n++) {
    out.set(biases, n * outputs);
    for (let i = 0; i < inputs; i++) if (x[n * inputs + i]) sum.add(i * outputs, x[n * inputs + i]);
    sum.into(out, n * outputs, rows, outputs);
  }
  return out;
}

/** The gradient by a layer's weights, in the form of its rows, from that by its outputs. */
function gradientOf({ inputs, outputs }, x, slopes, count) {
  const gradient = new Float32Array((inputs + 1) * outputs);
  for (let i = 0; i <= inputs; i++) {
    for (let n = 0; n < count; n++) {
      const value = i === inputs ? 1 : x[n * inputs + i];
      if (value) sum.add(n * outputs, value);
    }
    sum.into(gradient, i * outputs, slopes, outputs);
  }
  return gradient;
}

/** The gradient by a layer's inputs, which are behind a ReLU, from that by its outputs. */
function before({ rows, inputs, outputs }, x, slopes, count) {
  const out = new Float32Array(count * inputs);
  for (let at = 0; at < out.length; at++) {
    if (!x[at]) continue;
    let w = at % inputs * outputs, even = 0, odd = 0;
    for (let s = Math.floor(at / inputs) * outputs, end = s + outputs; s < end; s += 2, w += 2) {
      even += rows[w] * slopes[s];
      odd += rows[w + 1] * slopes[s + 1];
    }
    out[at] = even + odd;
  }
  return out;
}

// The decoder ---------------------------------------------------------------------------------

/** The inputs of each layer for `count` rows of (z, y), and the logits of the pixels. */
function through(layers, x, count) {
  const values = [x];
  layers.forEach((layer, n) => {
    const out = forward(layer, values[n], count);
    values.push(n < layers.length - 1 ? out.map((value) => Math.max(0, value)) : out);
  });
  return values;
}

const sigmoid = (logits) => logits.map((value) => 1 / (1 + Math.exp(-value)));

/** What `change` makes of each layer's inputs and of the gradient by its outputs, given that by the logits. */
function backwards(layers, values, slopes, count, change) {
  const found = [];
  for (let n = layers.length - 1; n >= 0; n--) {
    found.unshift(change(layers[n], values[n], slopes, count));
    if (n) slopes = before(layers[n], values[n], slopes, count);
  }
  return found;
}

/** Rows of (z, y): z from the prior, and for each row the label that `label` gives. */
function asked(count, latent, random, label) {
  const x = new Float32Array(count * (latent + CLASSES));
  for (let n = 0; n < count; n++) {
    x.set(normal(latent, random), n * (latent + CLASSES));
    x[n * (latent + CLASSES) + latent + label(n)] = 1;
  }
  return x;
}

const squared = (x) => x.map((value) => value * value);

/** The diagonal Fisher information of the decoder at its own images of these classes, a mean over `count` of them. */
function fisherOf(layers, count, latent, random, label) {
  const values = through(layers, asked(count, latent, random, label), count);
  const slopes = sigmoid(values.at(-1)).map((p) => p - Number(random() < p));
  // The square of a product is the product of the squares, and so is that of each image's gradient.
  const squares = (layer, x, of, rows) => gradientOf(layer, squared(x), squared(of), rows);
  return backwards(layers, values, slopes, count, squares).map((total) => total.map((value) => value / count));
}

// Forgetting ----------------------------------------------------------------------------------

/** Images a step for the label to forget and for the other labels, images for the Fisher information, and Adam's. */
const SETTINGS = { steps: 300, peak: 3e-3, grays: 8, replays: 32, seen: 512 };

/** The binary cross-entropy of logits from targets, a mean over images of the sum over their pixels. */
function crossEntropy(logits, targets, images) {
  let total = 0;
  logits.forEach((l, n) => { total += Math.max(l, 0) - l * targets[n] + Math.log1p(Math.exp(-Math.abs(l))); });
  return images ? total / images : 0;
}

/** lambda/2 sum_k F_k (theta_k - theta*_k)^2, whose gradient is added to `gradients`. */
function hold(layers, old, fisher, gradients, lambda) {
  let total = 0;
  layers.forEach(({ rows }, n) => {
    const gradient = gradients[n], stiffness = fisher[n], from = old[n].rows;
    for (let k = 0; k < rows.length; k++) {
      const away = rows[k] - from[k], force = lambda * stiffness[k] * away;
      gradient[k] += force;
      total += force * away / 2;
    }
  });
  return total;
}

/** Adam's step on all layers; `moments` has the two running means of each layer. */
function move(layers, gradients, moments, step, rate) {
  const [fix, fixSquares] = [1 - DECAY ** step, 1 - DECAY_SQUARES ** step];
  layers.forEach(({ rows }, n) => {
    const gradient = gradients[n], [first, second] = moments[n];
    for (let k = 0; k < rows.length; k++) {
      const slope = gradient[k];
      first[k] += (1 - DECAY) * (slope - first[k]);
      second[k] += (1 - DECAY_SQUARES) * (slope * slope - second[k]);
      rows[k] -= rate * first[k] / fix / (Math.sqrt(second[k] / fixSquares) + EPSILON);
    }
  });
}

/**
 * Forget a class. Yields, before each of `steps` updates and after the last, the terms of the loss for its batch, the
 * least that replay could be, and the layers.
 */
function* forgetting(layers, { digit, gamma, lambda, replay, steps, peak, grays, replays, seen, seed }) {
  const random = uniform(seed), latent = layers[0].inputs - CLASSES, images = replay ? replays : 0;
  const kept = Array.from({ length: CLASSES }, (_, k) => k).filter((k) => k !== digit);
  const any = () => kept[Math.floor(kept.length * random())];
  const old = layers.map((layer) => ({ ...layer, rows: layer.rows.slice() }));
  const moments = layers.map(({ rows }) => [new Float32Array(rows.length), new Float32Array(rows.length)]);
  const fisher = lambda ? fisherOf(old, seen, latent, random, any) : null;
  for (let step = 0; step <= steps; step++) {
    const gone = asked(grays, latent, random, () => digit), others = asked(images, latent, random, any);
    const taught = through(old, others, images).at(-1), targets = sigmoid(taught);
    const values = through(layers, Float32Array.of(...gone, ...others), grays + images), logits = values.at(-1);
    const pixels = sigmoid(logits), first = logits.length - targets.length;
    const gray = gamma / grays * pixels.subarray(0, first).reduce((total, p) => total + Math.abs(p - GRAY), 0);
    const slopes = pixels.map((p, n) => (n < first
      ? gamma / grays * Math.sign(p - GRAY) * p * (1 - p) : (p - targets[n - first]) / images));
    const gradients = backwards(layers, values, slopes, grays + images, gradientOf);
    const ewc = lambda ? hold(layers, old, fisher, gradients, lambda) : 0;
    yield { step, steps, gray, ewc, replay: crossEntropy(logits.subarray(first), targets, images),
      floor: crossEntropy(taught, targets, images), layers };
    const rate = peak * Math.min((step + 1) / (RISE * steps), (steps - step) / ((1 - RISE) * steps));
    if (step < steps) move(layers, gradients, moments, step + 1, rate);
  }
}

/** Drawings for all labels, for the same `draws` codes each: bytes of pixels, one label after the other. */
function sheet(layers, draws, seed) {
  const latent = layers[0].inputs - CLASSES, count = CLASSES * draws;
  const codes = asked(draws, latent, uniform(seed), () => 0), width = latent + CLASSES;
  const x = new Float32Array(count * width);
  for (let n = 0; n < count; n++) {
    x.set(codes.subarray(n % draws * width, n % draws * width + latent), n * width);
    x[n * width + latent + Math.floor(n / draws)] = 1;
  }
  return Uint8ClampedArray.from(through(layers, x, count).at(-1), (l) => 255 / (1 + Math.exp(-l)));
}

self.onmessage = ({ data: { layers, draws, ...asks } }) => {
  const settings = { ...SETTINGS, ...asks };
  for (const { layers: now, ...terms } of forgetting(layers.map(turned), settings)) {
    const last = terms.step === settings.steps;
    postMessage({ ...terms, sheet: last || terms.step % EVERY === 0 ? sheet(now, draws, settings.seed + 1) : null,
      layers: last ? now.map(turnedBack) : null });
  }
};
