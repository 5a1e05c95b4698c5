// Chapter 2's figure to touch: drawings for mixtures of the forgotten label and another one, by the baseline and by the
// model that forgot, from the same latent codes.

import { make, paint, SIDE } from "./elements.js";
import { CLASSES, decode, judged, oneHot } from "./models.js";
import { normal, uniform } from "./random.js";

const DRAWS = 6;

/** Fill the figure with what `load` gave; `part` finds its elements by name. */
export function mount(part, { digit, models, judge, presets, latent }) {
  const figures = [...part("share").closest(".stage").querySelectorAll("figure")];
  const rows = figures.map((figure, n) => ({ model: models[n], name: figure.querySelector("strong"),
    verdict: figure.querySelector("span"), canvas: figure.querySelector("canvas") }));
  const random = uniform(0), draws = () => Array.from({ length: DRAWS }, () => normal(latent, random));
  let codes = draws(), frame = 0, calm = 0;

  function draw() {
    const share = Number(part("share").value), other = Number(part("other").value), to = oneHot(other);
    const y = oneHot(digit).map((value, k) => (1 - share) * value + share * to[k]);
    const mixture = `${(100 * (1 - share)).toFixed(0)}% ${digit} + ${(100 * share).toFixed(0)}% ${other}`;
    for (const { model, verdict, canvas } of rows) {
      const seen = codes.map((z, n) => {
        const image = decode(model, z, y), odds = judged(judge, image);
        paint(canvas, image, n * SIDE);
        return odds.indexOf(Math.max(...odds));
      });
      const [before, after] = [digit, other].map((k) => `${k} in ${seen.filter((one) => one === k).length}`);
      verdict.textContent = `judge B sees ${before}, ${after} of ${DRAWS}`;
      canvas.setAttribute("aria-label", `${DRAWS} drawings by the model ${model.name}: ${verdict.textContent}`);
    }
    part("mixture").textContent = mixture;
    part("share").setAttribute("aria-valuetext", mixture);
    clearTimeout(calm);
    calm = setTimeout(() => {
      part("said").textContent = `${mixture}. ${rows.map(({ model, verdict }) =>
        `${model.name}: ${verdict.textContent}`).join("; ")}.`;
    }, 600);
  }
  const redraw = () => { frame ||= requestAnimationFrame(() => { frame = 0; draw(); }); };

  rows.forEach(({ model, name }) => { name.textContent = model.name; });
  part("other").append(...Array.from({ length: CLASSES }, (_, k) => k).filter((k) => k !== digit).map((k) =>
    make("option", { value: k, textContent: k })));
  // A preset has half of each of the two labels that the attack weights most: begin with one of them.
  part("other").value = presets.find(({ y }) => y.includes(0.5)).y.indexOf(0.5);
  part("share").oninput = part("other").onchange = redraw;
  part("new").onclick = () => { codes = draws(); redraw(); };
  draw();
}
