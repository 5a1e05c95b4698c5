// The page "Playground": a run's decoders, its judge and its attacker, in the reader's browser.

import { attack, stepsOf } from "./attack.js";
import { rasterized, trace } from "./drawing.js";
import { make, paint, SIDE } from "./elements.js";
import { mountForget } from "./forget.js";
import { CLASSES, decode, judged, load, oneHot, squaredError } from "./models.js";
import { normal } from "./random.js";

const NOT_A_DIGIT = CLASSES;

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
      card.verdict.textContent = `${named(first)}, ${(100 * odds[first]).toFixed(0)}%`;
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
