// "Forget it yourself", a part of the page "Playground": forget-worker.js makes the baseline forget a digit, and its
// reader watches the drawings and the loss.

import { make, paint, SIDE } from "./elements.js";

const DRAWS = 8;  // drawings of each digit
const SIZE = SIDE * SIDE;
const GAMMAS = [0, 0.03, 0.1, 0.3, 1, 3, 10];
const LAMBDAS = [0, 1, 3, 10, 30, 100, 300, 1000];
// The axes of the curve: its height is logarithmic, from the first of these values to the last.
const TICKS = [1, 10, 100, 1000];
const [WIDTH, HEIGHT, LEFT] = [320, 120, 34];
const TERMS = ["gray", "replay", "elastic"];

/** A slider over `stops` that begins at `value`; `value()` is where it stands. */
function slider(id, symbol, meaning, stops, value) {
  const input = make("input", { type: "range", id, min: 0, max: stops.length - 1, step: 1,
    value: stops.indexOf(value), oninput: show, attributes: { "aria-label": `${symbol}, weight of ${meaning}` } });
  const output = make("output", { htmlFor: input.id });
  function show() {
    output.textContent = stops[input.value];
    input.setAttribute("aria-valuetext", output.textContent);
  }
  show();
  return { value: () => stops[input.value], row: make("div", { className: "slider" },
    make("label", { htmlFor: input.id, textContent: symbol }), input, output) };
}

/** The curves of the terms: an element, and a function that draws what has been seen up to a step. */
function curves() {
  const svg = (tag, attributes, text = "") => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.textContent = text;
    return element;
  };
  const height = (value) => {
    const share = Math.log(Math.max(value, TICKS[0]) / TICKS[0]) / Math.log(TICKS.at(-1) / TICKS[0]);
    return HEIGHT - Math.min(1, share) * HEIGHT;
  };
  const element = svg("svg", { viewBox: `0 -6 ${WIDTH + LEFT} ${HEIGHT + 12}`, role: "img", class: "curves" });
  const lines = TERMS.map((term) => svg("polyline", { class: term }));
  element.append(...TICKS.flatMap((tick) => [
    svg("line", { x1: LEFT, x2: LEFT + WIDTH, y1: height(tick), y2: height(tick) }),
    svg("text", { x: LEFT - 4, y: height(tick) + 3 }, tick)]), ...lines);
  const draw = (seen, steps) => lines.forEach((line, n) => line.setAttribute("points", seen.map((terms, at) =>
    (TERMS[n] in terms ? `${(LEFT + at / steps * WIDTH).toFixed(1)},${height(terms[TERMS[n]]).toFixed(1)}` : ""))
    .filter(Boolean).join(" ")));
  return { element, draw };
}

/**
 * Fill the part of the page in `root`.
 *
 * `hooks` are: `sees`, image -> the digit that the judge sees in it; `done`, called with a new model, { name, digit,
 * layers }; and `attack`, called with a digit whose test image is to be sought in all models.
 */
export function mountForget(root, book, hooks) {
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const gamma = slider("pg-gamma", "γ", "gray", GAMMAS, 1);
  const lambda = slider("pg-lambda", "λ", "the elastic penalty", LAMBDAS, 1);
  part("weights").replaceChildren(gamma.row, lambda.row);
  part("digits").replaceChildren(...Array.from({ length: 10 }, (_, k) => make("label", {},
    make("input", { type: "radio", name: "pg-digit", value: k, checked: k === book.digit }), ` ${k}`)));
  const rows = Array.from({ length: 10 }, (_, k) => {
    const canvas = make("canvas", { width: DRAWS * SIDE, height: SIDE,
      attributes: { role: "img", "aria-label": `drawings for the label ${k}` } });
    const count = make("span");
    const element = make("div", { className: "drawings" }, make("strong", { textContent: k }), canvas, count);
    return { canvas, count, before: 0, element };
  });
  part("rows").replaceChildren(...rows.map(({ element }) => element));
  const { element: chart, draw } = curves();
  part("curves").replaceChildren(chart);
  let worker = null, digit = book.digit;

  const image = (sheet, k, n) => Float32Array.from(sheet.subarray((k * DRAWS + n) * SIZE, (k * DRAWS + n + 1) * SIZE),
    (value) => value / 255);

  /** Count, one row a frame, how many drawings the judge takes for what they were asked to be. */
  async function count(sheet, mine, tell) {
    for (const [k, row] of rows.entries()) {
      await new Promise(requestAnimationFrame);
      if (worker !== mine) return;
      tell(row, Array.from({ length: DRAWS }, (_, n) => image(sheet, k, n)).filter((x) => hooks.sees(x) === k).length);
    }
  }

  function stop(text) {
    worker?.terminate();
    worker = null;
    part("forget").textContent = "Forget";
    part("steps").hidden = true;
    part("forgotten").textContent = text;
  }

  part("replay").onclick = ({ target }) =>
    target.setAttribute("aria-pressed", String(target.getAttribute("aria-pressed") !== "true"));

  part("forget").onclick = () => {
    if (worker) return stop("Stopped. Nothing is kept of this run.");
    const mine = worker = new Worker(new URL("forget-worker.js", import.meta.url), { type: "module" });
    const seen = [], began = performance.now();
    const replays = part("replay").getAttribute("aria-pressed") !== "true";
    digit = Number(root.querySelector("[name=pg-digit]:checked").value);
    part("forget").textContent = "Stop";
    part("forgotten").textContent = "";
    part("attack-it").hidden = true;
    part("watch").hidden = false;
    Object.assign(part("steps"), { hidden: false, value: 0 });
    rows.forEach((row) => { row.count.textContent = ""; });
    worker.onerror = () => stop("This browser could not run the worker.");
    worker.onmessage = async ({ data: { step, steps, gray, replay, floor, ewc, sheet, layers } }) => {
      if (worker !== mine) return;
      seen.push({ gray, ...(replays && { replay: replay - floor }), elastic: ewc });
      Object.assign(part("steps"), { value: step, max: steps });
      if (!sheet) return;
      rows.forEach(({ canvas }, k) => {
        for (let n = 0; n < DRAWS; n++) paint(canvas, image(sheet, k, n), n * SIDE);
      });
      draw(seen, steps);
      const terms = Object.entries(seen.at(-1)).map(([term, value]) => `${term} ${value.toFixed(2)}`).join(", ");
      part("terms").textContent = `Step ${step} of ${steps}: ${terms}.`;
      chart.setAttribute("aria-label", `The loss, term by term. ${part("terms").textContent}`);
      if (!step) count(sheet, mine, (row, n) => { row.count.textContent = row.before = n; });
      if (!layers) return;
      const seconds = ((performance.now() - began) / 1000).toFixed(0);
      await count(sheet, mine, (row, n) => { row.count.textContent = `${row.before} → ${n}`; });
      if (worker !== mine) return;
      const name = `yours: forgot ${digit}`;
      stop(`Done in ${seconds} s. The model “${name}” is now among those above.`);
      part("attack-it").hidden = false;
      part("attack-it").textContent = `Attack it with a real ${digit}`;
      hooks.done({ name, digit, layers });
    };
    worker.postMessage({ layers: book.models[0].layers.map(({ weight, bias, ...sizes }) => (
      { weight: weight.slice(), bias: bias.slice(), ...sizes })), draws: DRAWS, digit, gamma: gamma.value(),
      lambda: lambda.value(), replay: replays, seed: 0 });
  };
  part("attack-it").onclick = () => hooks.attack(digit);
}
