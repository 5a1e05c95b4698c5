// The reconstruction attack of sa_lib/reconstruction.py on a page: its inputs are free, and the model is not changed.

import { CLASSES, layersOf, mean, normalized, oneHot, places, softmax, squaredError } from "./models.js";
import { normal, uniform } from "./random.js";

// As in sa_lib/reconstruction.py, but for the size of the pool: there it is 4096, which takes a browser too long.
const POOL = 1024;
const SCALES = [1, 1, 2, 4];
const DISTURBANCE = 0.15;
const SCANNED = 16;  // inputs of the pool a step: as quick as a step of a descent
const FLAT = 1e-4;  // the slope of the sigmoid at pixels that are left out of the derivative: they hardly move

/** The number `n` of the pool of random inputs: z from the prior; y all labels in turn, mixtures of two, and of all. */
function drawn(n, latent, free, random) {
  const four = Math.floor(n / 4), scale = free ? SCALES[four % SCALES.length] : 1;
  const share = random(), [one, other] = [random(), random()].map((value) => oneHot(Math.floor(CLASSES * value)));
  const y = [() => oneHot(four % CLASSES), () => oneHot(four % CLASSES),
    () => one.map((value, k) => share * value + (1 - share) * other[k]),
    () => normalized(one.map(() => -Math.log(1 - random())))][n % 4]();
  return { z: normal(latent, random).map((value) => scale * value), y: y.map((value) => scale * value) };
}

/** The lower triangle L of a positive definite matrix A = LL'. */
function cholesky(matrix) {
  const lower = matrix.map((row) => row.slice());
  lower.forEach((row, i) => {
    for (let j = 0; j <= i; j++) {
      for (let k = 0; k < j; k++) row[j] -= row[k] * lower[j][k];
      row[j] = i === j ? Math.sqrt(row[j]) : row[j] / lower[j][j];
    }
  });
  return lower;
}

/** x with Lx = b. */
function forwards(lower, b) {
  const x = [];
  lower.forEach((row, i) => { x[i] = x.reduce((sum, value, k) => sum - row[k] * value, b[i]) / row[i]; });
  return x;
}

/** x with L'x = b. */
function backwards(lower, b) {
  const x = Array.from(b);
  for (let i = x.length - 1; i >= 0; i--) {
    x[i] /= lower[i][i];
    for (let k = 0; k < i; k++) x[k] -= lower[i][k] * x[i];
  }
  return x;
}

/** A matrix with more on its diagonal. */
const raised = (matrix, more) => matrix.map((row, i) => row.map((value, j) => (i === j ? value + more[i] : value)));

/** The sum of products. */
function dot(a, b) {
  let even = 0, odd = 0, n = 1;
  for (; n < a.length; n += 2) {
    even += a[n - 1] * b[n - 1];
    odd += a[n] * b[n];
  }
  return even + odd + (a.length % 2 ? a[n - 1] * b[n - 1] : 0);
}

/** Rows of derivatives behind a linear layer, given those before it; both at some of its places only. */
function through({ weight, inputs }, rows, before, behind) {
  const out = rows.map(() => new Float32Array(behind.length)), needed = new Float32Array(before.length);
  behind.forEach((o, n) => {
    for (let i = 0; i < needed.length; i++) needed[i] = weight[o * inputs + before[i]];
    for (let p = 0; p < rows.length; p++) out[p][n] = dot(needed, rows[p]);
  });
  return out;
}

/** The unknowns of an attack: z and y, or z and the logits of y where y is to stay on the simplex. */
class Problem {
  constructor(model, target, free) {
    Object.assign(this, { model, target, free, latent: model.layers[0].inputs - CLASSES });
  }

  /** The unknowns for inputs. The logits of a label alone would be infinite. */
  unknowns({ z, y }) {
    return [...z, ...(this.free ? y : y.map((share) => Math.log(0.98 * share + 0.02 / CLASSES)))];
  }

  /** The inputs, image and loss for unknowns. */
  at(unknowns) {
    const z = unknowns.slice(0, this.latent), rest = unknowns.slice(this.latent);
    const y = this.free ? rest : softmax(rest);
    const layers = layersOf(this.model, z, y), image = layers[2];
    return { unknowns, z, y, layers, image, loss: squaredError(image, this.target) };
  }

  /** J'J and J'(image - target), with J the derivative of the image by the unknowns; no dead ReLU has a part in it. */
  normalEquations({ y, layers: [narrow, wide, image] }) {
    const [first, second, third] = this.model.layers, steep = image.map((s) => s * (1 - s));
    const [a, b] = [narrow, wide].map((x) => places(x, (value) => value > 0));
    const c = places(steep, (value) => value > FLAT);
    const column = (p) => Float32Array.from(a, (o) => first.weight[o * first.inputs + p]);
    let rows = Array.from({ length: first.inputs }, (_, p) => column(p));
    if (!this.free) {
      const labels = rows.splice(this.latent);
      const mixture = labels[0].map((_, n) => y.reduce((sum, share, k) => sum + share * labels[k][n], 0));
      rows.push(...labels.map((row, k) => row.map((value, n) => y[k] * (value - mixture[n]))));
    }
    rows = through(third, through(second, rows, a, b), b, c).map((row) => row.map((value, n) => value * steep[c[n]]));
    const difference = Float32Array.from(c, (n) => image[n] - this.target[n]);
    return { curvature: rows.map((row) => rows.map((other) => dot(row, other))),
      slope: rows.map((row) => dot(row, difference)) };
  }

  /**
   * Damped Gauss-Newton (Levenberg 1944; Marquardt 1963). The damping falls after a step that lowers the loss, and
   * rises after one that does not and is taken back. Yields where it is after every step.
   */
  * descent(unknowns, iterations) {
    let here = this.at(unknowns), system = null, damping = 1e-2;
    for (let step = 0; step < iterations; step++) {
      system ??= this.normalEquations(here);
      const { curvature, slope } = system, sizes = curvature.map((row, i) => row[i]), typical = mean(sizes);
      const lower = cholesky(raised(curvature, sizes.map((size) => damping * (size + 1e-3 * typical + 1e-9))));
      const move = backwards(lower, forwards(lower, slope));
      const there = this.at(here.unknowns.map((value, n) => value - move[n]));
      const better = there.loss < here.loss;  // never where it is NaN
      if (better) [here, system] = [there, null];
      damping = Math.min(1e8, Math.max(1e-6, better ? damping / 4 : damping * 4));
      yield here;
    }
  }

  /** The unknowns for an answer after a random step, along which the loss rises by about the same in all directions. */
  disturbed(answer, random) {
    const here = this.at(this.unknowns(answer)), { curvature } = this.normalEquations(here);
    const more = 1e-2 * mean(curvature.map((row, i) => row[i])) + 1e-9;
    const noise = normal(curvature.length, random).map((value) => DISTURBANCE * Math.sqrt(answer.loss) * value);
    const step = backwards(cholesky(raised(curvature, curvature.map(() => more))), noise);
    return here.unknowns.map((value, n) => value + step[n]);
  }

  /** The best of the pool, descents from there, and descents from disturbed answers. Yields the best of each step. */
  * search({ pool, starts, iterations, rounds }, random, weaker) {
    const nearer = (a, b) => (a?.loss <= b.loss ? a : b), size = Math.min(pool, POOL);
    let best = weaker, found = [];
    for (let n = 1; n <= size; n++) {
      found.push(this.at(this.unknowns(drawn(n, this.latent, this.free, random))));
      if (n % SCANNED && n < size) continue;
      found = found.sort((a, b) => a.loss - b.loss).slice(0, starts);
      yield best = nearer(best, found[0]);
    }
    if (weaker) found.push({ unknowns: this.unknowns(weaker) });
    for (let turn = 0; turn < found.length + rounds; turn++)
      for (const here of this.descent(found[turn]?.unknowns ?? this.disturbed(best, random), iterations))
        yield best = nearer(best, here);
  }
}

/** Steps of an attack. */
export function stepsOf(free, { pool, starts, iterations, rounds }) {
  const once = Math.ceil(Math.min(pool, POOL) / SCANNED) + (Math.min(pool, POOL, starts) + rounds) * iterations;
  return free ? 2 * once + iterations : once;
}

/**
 * The reconstruction attack of sa_lib/reconstruction.py on one image. Yields its best answer, { loss, z, y, image },
 * after every step, so that its caller may draw in between. Where y is free, it first seeks the best on the simplex.
 */
export function* attack(model, target, free, budget, seed = 0) {
  const random = uniform(seed);
  let best;
  for (const off of free ? [false, true] : [false])
    for (best of new Problem(model, target, off).search(budget, random, best)) yield best;
}
