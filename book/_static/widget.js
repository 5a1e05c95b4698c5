// A figure to touch in a chapter. It loads the models only when its reader asks for them, and all of its elements keep
// their places from the start. budget.js and labels.js are such figures; the texts around them lie in book/widgets/.

import { make } from "./elements.js";

for (const root of document.querySelectorAll("[data-widget]")) {
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const load = make("button", { type: "button", textContent: `Load the models (${root.dataset.kilobytes} kB)` });
  const status = make("span", { role: "status" });
  load.onclick = async () => {
    status.textContent = "Loading …";
    try {
      const { mount } = await import(`./${root.dataset.widget}.js`);
      mount(part, await (await import("./models.js")).load());
      root.classList.add("loaded");
      root.querySelector("input").focus({ preventScroll: true });  // the button that had the focus is gone
    } catch (error) {
      status.textContent = error.message;
    }
  };
  part("idle").replaceChildren(load, status);
}
