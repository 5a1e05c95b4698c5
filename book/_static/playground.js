// The page "Playground": a run's decoders, its judge and its attacker, in the reader's browser.
// The files that it fetches are written by sa_lib/playground.py and lie in playground/ beside this module.

import { make, paint, SIDE } from "./elements.js";
import { mountForget } from "./forget.js";
import { normal, uniform } from "./random.js";

const CLASSES = 10;
const NOT_A_DIGIT = CLASSES;

// Models --------------------------------------------------------------------------------------

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
function places(x, wanted) {
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

const mean = (x) => x.reduce((a, b) => a + b) / x.length;
const relu = (x) => x.map((value) => Math.max(0, value));
const sigmoid = (x) => x.map((value) => 1 / (1 + Math.exp(-value)));

function normalized(shares) {
  const sum = shares.reduce((a, b) => a + b);
  return shares.map((share) => share / sum);
}

function softmax(x) {
  const most = Math.max(...x);
  return normalized(Array.from(x, (value) => Math.exp(value - most)));
}

/** Values of the decoder's layers for z and y; the last are the image's 784 pixels, 0-1. */
function layersOf({ layers: [first, second, third] }, z, y) {
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

// Attack --------------------------------------------------------------------------------------

const oneHot = (label) => Array.from({ length: CLASSES }, (_, k) => Number(k === label));

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

// Drawings ------------------------------------------------------------------------------------
// A stroke is a list of points [x, y], whole numbers from 1 to 255.

/** Strokes as an image, scaled and centered by mass as MNIST's digits are. */
function rasterized(strokes) {
  const [xs, ys] = [0, 1].map((axis) => strokes.flat().map((point) => point[axis]));
  const middle = [xs, ys].map((all) => (Math.min(...all) + Math.max(...all)) / 2);
  const scale = 18 / Math.max(Math.max(...xs) - Math.min(...xs), Math.max(...ys) - Math.min(...ys), 18);
  const canvas = make("canvas", { width: SIDE, height: SIDE });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  let center = [SIDE / 2, SIDE / 2], image;
  for (let pass = 0; pass < 2; pass++) {
    const shift = center.map((at) => SIDE - at);
    context.fillRect(0, 0, SIDE, SIDE);
    trace(context, strokes, ([x, y]) => [(x - middle[0]) * scale + shift[0], (y - middle[1]) * scale + shift[1]], 2.4);
    const { data } = context.getImageData(0, 0, SIDE, SIDE);
    image = Float32Array.from({ length: SIDE * SIDE }, (_, n) => data[4 * n] / 255);
    const mass = image.reduce((a, b) => a + b);
    center = [(n) => n % SIDE, (n) => Math.floor(n / SIDE)].map((along) =>
      image.reduce((sum, value, n) => sum + value * (along(n) + 0.5), 0) / mass);
  }
  return image;
}

function trace(context, strokes, place, width) {
  Object.assign(context, { strokeStyle: "white", lineWidth: width, lineCap: "round", lineJoin: "round" });
  for (const stroke of strokes) {
    context.beginPath();
    context.moveTo(...place(stroke[0]));
    // A single point is a line too short to see, but with round ends.
    for (const [x, y] of stroke) context.lineTo(...place([x + 0.01, y]));
    context.stroke();
  }
}

// Links ---------------------------------------------------------------------------------------

/** The state as a URL's fragment; strokes are bytes with a 0 after each. */
function toFragment({ z, y, free, target }) {
  const short = (numbers) => numbers.map((value) => Number(value.toFixed(4))).join(",");
  const parts = { z: short(z), y: short(y), free: Number(free) };
  if (target?.strokes) {
    const bytes = target.strokes.flatMap((stroke) => [...stroke.flat(), 0]);
    parts.drawing = btoa(String.fromCharCode(...bytes));
  } else if (target) parts.target = target.number;
  return new URLSearchParams(parts).toString();
}

/** What `toFragment` wrote; null where the fragment is of another kind, or damaged. */
function fromFragment(fragment, book) {
  const parts = new URLSearchParams(fragment);
  const numbers = (name) => (parts.get(name) ?? "").split(",").map((text) => (text ? Number(text) : NaN));
  const [z, y] = [numbers("z"), numbers("y")];
  if (z.length !== book.latent || y.length !== CLASSES) return null;
  if (![...z, ...y].every((value) => Math.abs(value) <= 1000)) return null;
  const number = parts.has("target") ? Number(parts.get("target")) : NaN;
  let target = number in book.targets ? { ...book.targets[number], number } : null;
  try {
    const strokes = [[]];
    const bytes = Array.from(atob(parts.get("drawing") ?? ""), (letter) => letter.charCodeAt(0));
    for (let n = 0; n < bytes.length; n += bytes[n] ? 2 : 1)
      if (bytes[n]) strokes.at(-1).push([bytes[n], bytes[n + 1]]);
      else strokes.push([]);
    const drawn = strokes.filter((stroke) => stroke.length);
    if (drawn.length && drawn.flat(2).every(Boolean)) target = { strokes: drawn, image: rasterized(drawn) };
  } catch {
    return null;
  }
  return { z, y, free: parts.get("free") === "1", target };
}

// Page ----------------------------------------------------------------------------------------

const named = (outcome) => (outcome === NOT_A_DIGIT ? "not a digit" : String(outcome));

/** Fill the page's element `root` and let its reader play with what `load` gave. */
export function mount(root, book) {
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const button = (text, onclick, rest = {}) => make("button", { type: "button", textContent: text, onclick, ...rest });
  const [baseline, forgot] = book.models, never = book.models.at(-1);
  let state = { z: normal(book.latent).map(() => 0), y: oneHot(book.digit), free: false, target: null };
  let walk = null, running = null, frame = 0, calm = 0;

  // Cards: one a model
  function cardOf(model) {
    const canvas = make("canvas", { width: SIDE, height: SIDE, attributes: { role: "img" } });
    const verdict = make("div", { className: "verdict" });
    const bars = Array.from({ length: CLASSES + 1 }, (_, k) => make("span", {}, k === NOT_A_DIGIT ? "–" : String(k)));
    const error = make("div", { className: "error" });
    const take = button("use its inputs", () => {
      const { z, y } = card.answer;
      change({ z: Array.from(z), y: Array.from(y) });
    }, { hidden: true, attributes: { "aria-label": `use the inputs found for ${model.name}` } });
    const card = { model, canvas, verdict, bars, error, take, answer: null,
      element: make("figure", {}, make("figcaption", { textContent: model.name }), canvas, verdict,
        make("div", { className: "bars", attributes: { "aria-hidden": "true" } }, ...bars), error, take) };
    return card;
  }

  const cards = book.models.map(cardOf);
  part("models").replaceChildren(...cards.map((card) => card.element));
  part("models").style.setProperty("--models", cards.length);

  // Sliders
  function slider(name, set) {
    const input = make("input", { type: "range", step: "0.01", id: `pg-${name}`,
      oninput: () => { stopWalk(); set(Number(input.value)); } });
    const output = make("output", { htmlFor: input.id });
    return { input, output, row: make("div", { className: "slider" },
      make("label", { htmlFor: input.id, textContent: name }), input, output) };
  }
  const replaced = (list, at, value) => list.map((old, n) => (n === at ? value : old));
  const zs = state.z.map((_, n) => slider(`z${n + 1}`, (value) => change({ z: replaced(state.z, n, value) })));
  const ys = state.y.map((_, k) => slider(`y${k}`, (value) => change({ y: replaced(state.y, k, value) })));
  part("z").replaceChildren(...zs.map(({ row }) => row));
  part("y").replaceChildren(...ys.map(({ row }) => row));

  function show({ input, output }, value, low, high, text = value.toFixed(2)) {
    input.min = Math.min(low, Math.floor(value));
    input.max = Math.max(high, Math.ceil(value));
    input.value = value;
    input.setAttribute("aria-valuetext", text);
    output.textContent = text;
  }

  // What the decoders are given: where no weight is above 0, all labels have the same share.
  function label() {
    if (state.free) return state.y;
    const weights = state.y.map((value) => Math.max(0, value));
    const sum = weights.reduce((a, b) => a + b);
    return weights.map((weight) => (sum ? weight / sum : 1 / CLASSES));
  }

  // Drawing all models
  function change(parts) {
    stopAttack();
    for (const card of cards) card.answer = null;
    state = { ...state, ...parts };
    look(null);
    redraw();
  }

  function redraw() {
    frame ||= requestAnimationFrame(() => { frame = 0; draw(); });
    clearTimeout(calm);
    calm = setTimeout(settle, 600);
  }

  function draw(some = cards) {
    const y = label();
    for (const card of some) {
      const image = card.answer?.image ?? decode(card.model, state.z, y);
      const odds = judged(book.judge, image);
      const first = odds.indexOf(Math.max(...odds));
      paint(card.canvas, image);
      card.verdict.textContent = `${named(first)}, ${(100 * odds[first]).toFixed(0)} %`;
      card.bars.forEach((bar, k) => bar.style.setProperty("--share", odds[k].toFixed(3)));
      card.error.textContent = state.target ? `error ${squaredError(image, state.target.image).toFixed(1)}` : "";
      card.take.hidden = !card.answer;
      card.said = `${card.model.name}: ${card.verdict.textContent}`;
      card.canvas.setAttribute("aria-label", card.said);
    }
    zs.forEach((row, n) => show(row, state.z[n], -4, 4));
    ys.forEach((row, k) => show(row, state.y[k], state.free ? -2 : 0, state.free ? 4 : 1, y[k].toFixed(2)));
    root.querySelectorAll("[name=pg-free]").forEach((radio) => { radio.checked = radio.value === String(state.free); });
  }

  // What a screen reader is told, and the address: when nothing has moved for a while.
  function settle() {
    if (walk || running) return;
    part("said").textContent = `The judge sees: ${cards.map(({ said }) => said).join("; ")}.`;
    history.replaceState(null, "", `#${toFragment(state)}`);
  }

  function look(name, text = "") {
    for (const card of cards) card.element.classList.toggle("look", card.model.name === name);
    part("look").textContent = text;
  }

  // Presets, labels, latents
  part("presets").replaceChildren(...book.presets.map(({ name, model, z, y, free }) => button(name, () => {
    stopWalk();
    change({ z, y, free });
    look(model, `Look at the model “${model}”.`);
  })));
  part("labels").replaceChildren(...oneHot(0).map((_, k) =>
    button(String(k), () => change({ y: oneHot(k) }), { attributes: { "aria-label": `label ${k} alone` } })));
  root.querySelectorAll("[name=pg-free]").forEach((radio) => {
    radio.onchange = () => change({ free: radio.value === "true", y: label() });
  });
  part("random").onclick = () => { stopWalk(); change({ z: normal(book.latent) }); };

  // Between two draws of equal weight, cosine and sine keep z as likely as a draw itself.
  function stepTo(angle) {
    const [from, to] = [Math.cos(angle), Math.sin(angle)];
    change({ z: walk.from.map((value, n) => from * value + to * walk.to[n]) });
  }
  const newWalk = () => ({ from: state.z, to: normal(book.latent), began: performance.now() });
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  function stopWalk() {
    if (!walk) return;
    walk = null;
    part("walk").setAttribute("aria-pressed", "false");
    redraw();
  }

  function onward(now) {
    if (!walk) return;
    const angle = Math.max(0, now - walk.began) / 4000 * Math.PI / 2;
    stepTo(Math.min(angle, Math.PI / 2));
    if (angle >= Math.PI / 2) walk = newWalk();
    requestAnimationFrame(onward);
  }

  part("walk").onclick = () => {
    if (still.matches) { // One step a press.
      walk = newWalk();
      stepTo(Math.PI / 8);
      walk = null;
    } else if (walk) stopWalk();
    else {
      walk = newWalk();
      part("walk").setAttribute("aria-pressed", "true");
      requestAnimationFrame(onward);
    }
  };

  // Targets: real images, or a drawing
  const pad = part("pad"), edge = pad.width;
  const byte = (share) => Math.min(255, Math.max(1, Math.round(255 * share)));
  let pen = { at: [128, 128], down: false, seen: false };

  function aim(target) {
    change({ target });
    showTarget();
  }

  function showTarget() {
    const { target } = state;
    const context = pad.getContext("2d");
    context.fillRect(0, 0, edge, edge);
    const place = (point) => point.map((value) => value / 255 * edge);
    if (target?.strokes) trace(context, target.strokes, place, edge / 12);
    if (pen.seen) {
      const [x, y] = place(pen.at);
      context.fillStyle = pen.down ? "orange" : "gray";
      context.fillRect(x - 4, y - 4, 8, 8);
      context.fillStyle = "black";
    }
    paint(part("target"), target?.image ?? new Float32Array(SIDE * SIDE));
    thumbs.forEach((thumb, n) => thumb.setAttribute("aria-pressed", String(target?.number === n)));
    part("attack").disabled = !target;
  }

  function begin(point) {
    const strokes = [...(state.target?.strokes ?? []), [point]];
    aim({ strokes, image: rasterized(strokes) });
  }

  function extend(point) {
    const strokes = state.target.strokes, last = strokes.at(-1).at(-1);
    if (Math.hypot(point[0] - last[0], point[1] - last[1]) < 4) return;
    strokes.at(-1).push(point);
    aim({ strokes, image: rasterized(strokes) });
  }

  const pointOf = (event) => [byte(event.offsetX / pad.clientWidth), byte(event.offsetY / pad.clientHeight)];
  pad.onpointerdown = (event) => { pad.setPointerCapture(event.pointerId); begin(pointOf(event)); };
  pad.onpointermove = (event) => { if (pad.hasPointerCapture(event.pointerId)) extend(pointOf(event)); };
  pad.onfocus = () => { pen.seen = pad.matches(":focus-visible"); showTarget(); };
  pad.onblur = () => { pen = { ...pen, seen: false, down: false }; showTarget(); };
  pad.onkeydown = (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!move && event.key !== " ") return;
    event.preventDefault();
    event.stopPropagation();
    pen.seen = true;
    if (move) pen.at = pen.at.map((value, axis) => byte((value + 8 * move[axis]) / 255));
    else pen.down = !pen.down;
    if (!pen.down) return showTarget();
    if (move) extend(pen.at);
    else begin(pen.at);
  };
  part("clear").onclick = () => aim(null);

  const thumbs = book.targets.map(({ label: k, image }, n) => {
    const canvas = make("canvas", { width: SIDE, height: SIDE });
    paint(canvas, image);
    return make("button", { type: "button", onclick: () => aim({ ...book.targets[n], number: n }),
      attributes: { "aria-label": `real test image ${n + 1}, a ${k}`, "aria-pressed": "false" } }, canvas);
  });
  part("targets").replaceChildren(...thumbs);

  // The attack: as many steps as fit into a frame, on all models in turn
  function stopAttack() {
    if (!running) return;
    running = null;
    part("attack").textContent = "Attack all models";
    part("progress").hidden = true;
    redraw();
  }

  part("attack").onclick = () => {
    if (running) return stopAttack();
    stopWalk();
    const { target, free } = state;
    change({});
    const attacks = cards.map(({ model }) => attack(model, target.image, free, book.attack));
    const mine = running = {};
    part("attack").textContent = "Stop";
    part("result").replaceChildren();
    const steps = stepsOf(free, book.attack);
    Object.assign(part("progress"), { hidden: false, value: 0, max: steps });
    let turn = 0, step = 0;
    const work = () => {
      if (running !== mine) return;
      const until = performance.now() + 20, touched = new Set();
      while (performance.now() < until && step < steps) {
        cards[turn].answer = attacks[turn].next().value;
        touched.add(cards[turn]);
        turn = (turn + 1) % cards.length;
        if (!turn) step++;
      }
      part("progress").value = step;
      draw(touched);
      if (step < steps) return requestAnimationFrame(work);
      stopAttack();
      report(target, free);
    };
    requestAnimationFrame(work);
  };

  function report(target, free) {
    const threat = free ? "y free" : "y on the simplex";
    const { starts, rounds, iterations, targets, errors } = book.attack;
    const own = target.strokes || target.label === book.digit;
    const rows = cards.map(({ model, answer }) => [model.name, answer.loss.toFixed(1),
      ...(own ? [errors[threat][model.name]?.toFixed(1) ?? "–"] : [])]);
    const head = ["model", "error", ...(own ? [`chapter 5, mean of ${targets} images of ${book.digit}`] : [])];
    const line = (cells, tag) => make("tr", {}, ...cells.map((textContent, n) => (n && tag === "td"
      ? make("td", { textContent })
      : make("th", { textContent, attributes: { scope: n || tag === "th" ? "col" : "row" } }))));
    const lossOf = (model) => cards.find((card) => card.model === model).answer.loss;
    const known = lossOf(baseline), unseen = lossOf(never), mine = cards[book.models.length]?.model;
    const left = (model) => `what is left in “${model.name}” is ρ = `
      + ((unseen - lossOf(model)) / (unseen - known)).toFixed(2);
    const asked = [forgot, ...(mine?.digit === book.digit ? [mine] : [])];
    const rho = own && unseen > known ? `${target.strokes ? `If this is a ${book.digit}: on` : "On"} this one image, `
      + `${asked.map(left).join(", and ")}: 1 as if nothing had been forgotten, 0 as if the class had never been seen. `
      + "Chapter 5 takes the mean over many images, and several models that never saw it." : "";
    const alone = mine && target.label === mine.digit ? `All models here were trained on images of ${mine.digit}: the `
      + `error does not say what is left in “${mine.name}”.` : "";
    part("result").replaceChildren(
      make("table", {}, make("caption", { textContent: `Squared error of the best of ${starts + rounds} descents of `
        + `${iterations} steps, ${threat}.` }), make("thead", {}, line(head, "th")),
      make("tbody", {}, ...rows.map((cells) => line(cells, "td")))), make("p", { textContent: rho || alone }));
  }

  // The reader's own model comes last; a new one takes the place of the one before.
  mountForget(part("forgetting"), book, {
    sees: (image) => {
      const odds = judged(book.judge, image);
      return odds.indexOf(Math.max(...odds));
    },
    done: (model) => {
      stopWalk();
      stopAttack();
      const card = cardOf(model);
      cards[book.models.length]?.element.remove();
      cards[book.models.length] = card;
      part("models").append(card.element);
      part("models").style.setProperty("--models", cards.length);
      change({ y: oneHot(model.digit), free: false });
    },
    attack: (digit) => {
      stopWalk();
      const number = book.targets.findIndex(({ label }) => label === digit);
      aim({ ...book.targets[number], number });
      part("attack").click();
      part("attack").focus();
    },
  });

  // Links
  part("link").onclick = async () => {
    settle();
    try {
      await navigator.clipboard.writeText(location.href);
      part("copied").textContent = "The link is on the clipboard.";
    } catch {
      part("copied").textContent = "The link is in the address bar.";
    }
  };
  function restore() {
    const found = fromFragment(location.hash.slice(1), book);
    if (!found) return false;
    stopWalk();
    change(found);
    showTarget();
    return true;
  }
  window.addEventListener("hashchange", restore);

  if (!restore()) {
    const { z, y, free } = book.presets[0];
    state = { z, y, free, target: null };
    draw();
    showTarget();
  }
  root.hidden = false;
}

const root = document.getElementById("sa-playground");
if (root) {
  const status = document.getElementById("sa-playground-status");
  status.textContent = "The models are being fetched …";
  load().then((book) => {
    mount(root, book);
    status.hidden = true;
  }).catch((error) => { status.textContent = error.message; });
}
