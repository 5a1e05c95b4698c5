// Chapter 5's figure to touch: one image, sought in three models by the playground's attack, with a budget.

import { attack, stepsOf } from "./attack.js";
import { paint } from "./elements.js";

const FRAME = 20;  // milliseconds of work a frame

/** Fill the figure with what `load` gave; `part` finds its elements by name. */
export function mount(part, { digit, models, targets, attack: budget }) {
  const own = targets.filter(({ label }) => label === digit);
  const attacked = [models[0], models[1], models.at(-1)], most = budget.starts + budget.rounds;
  const steps = Array.from({ length: most + 1 }, (_, n) => stepsOf(false, { ...budget, starts: n, rounds: 0 }));
  const [aim, ...cards] = part("budget").closest(".stage").querySelectorAll("figure");
  const bars = [...part("errors").rows];
  let number = 0, attacks, answers, moments, step, frame = 0;

  /** Where the attack stands: `moments` has the answers after each descent so far, and `answers` the newest. */
  function begin() {
    attacks = attacked.map((model) => attack(model, own[number].image, false, budget));
    [answers, moments, step] = [null, [], 0];
    paint(aim.querySelector("canvas"), own[number].image);
    aim.querySelector("canvas").setAttribute("aria-label", `the target, test image ${number + 1} of ${digit}`);
    ask();
  }

  const asked = () => Number(part("budget").value);

  function ask() {
    const text = `${asked()} of ${most} descents`;
    part("asked").textContent = text;
    part("budget").setAttribute("aria-valuetext", text);
    frame ||= requestAnimationFrame(work);
  }

  function work() {
    frame = 0;
    const until = performance.now() + FRAME;
    while (moments.length <= asked() && performance.now() < until) {
      answers = attacks.map((one) => one.next().value);
      if (++step === steps[moments.length]) moments.push(answers);
    }
    const done = moments.length > asked();
    show(moments[asked()] ?? answers);
    part("progress").classList.toggle("busy", !done);
    part("progress").value = step / steps[asked()];
    if (!done) frame = requestAnimationFrame(work);
    else part("said").textContent = `After ${asked()} descents: ${attacked.map(({ name }, n) =>
      `${name} ${moments[asked()][n].loss.toFixed(1)}`).join(", ")}.`;
  }

  function show(best) {
    // A full bar is the largest error before the first descent, so that bars can be compared as the budget grows.
    const longest = Math.max(...(moments[0] ?? best).map(({ loss }) => loss));
    best.forEach(({ image, loss }, n) => {
      const canvas = cards[n].querySelector("canvas"), [, bar, value] = bars[n].cells;
      paint(canvas, image);
      canvas.setAttribute("aria-label", `nearest image of the model ${attacked[n].name}`);
      bar.style.setProperty("--share", (loss / longest).toFixed(3));
      value.textContent = loss.toFixed(1);
    });
  }

  attacked.forEach(({ name }, n) => {
    cards[n].querySelector("figcaption").textContent = name;
    bars[n].cells[0].textContent = name;
  });
  part("budget").max = most;
  part("budget").oninput = ask;
  part("next").onclick = () => { number = (number + 1) % own.length; begin(); };
  begin();
}
