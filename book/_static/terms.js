// Shows the definition of a term: under the pointer, at the focus and by touch. Escape hides it.
document.addEventListener("DOMContentLoaded", () => {
  const note = document.createElement("div");
  Object.assign(note, {id: "definition", className: "definition", role: "tooltip", hidden: true});
  document.body.append(note);
  const definitions = new Map();
  for (const term of document.querySelectorAll("dfn.term")) {
    definitions.set(term, term.title);
    term.removeAttribute("title");
  }
  let shown = null;
  function hide() {
    shown?.removeAttribute("aria-describedby");
    shown = null;
    note.hidden = true;
  }
  function place() {
    const term = shown.getBoundingClientRect();
    const below = term.bottom + note.offsetHeight < innerHeight;
    note.style.top = `${below ? term.bottom : term.top - note.offsetHeight}px`;
    note.style.left = `${Math.max(8, Math.min(term.left, innerWidth - note.offsetWidth - 8))}px`;
  }
  function show(term) {
    hide();
    shown = term;
    note.textContent = definitions.get(term);
    note.hidden = false;
    term.setAttribute("aria-describedby", note.id);
    place();
  }
  const termOf = (target) => target instanceof Element ? target.closest("dfn.term") : null;
  for (const [kind, act] of [
    ["pointerover", (event) => { const term = termOf(event.target); if (term && term !== shown) show(term); }],
    ["pointerout", (event) => {
      const next = event.relatedTarget;
      if (shown && shown !== document.activeElement && !note.contains(next) && termOf(next) !== shown) hide();
    }],
    ["focusin", (event) => { const term = termOf(event.target); if (term) show(term); }],
    ["focusout", (event) => { if (termOf(event.target) === shown) hide(); }],
    ["keydown", (event) => { if (event.key === "Escape") hide(); }],
  ]) document.addEventListener(kind, act);
  // A scroll may come from the focus itself; tables scroll on their own.
  addEventListener("scroll", () => { if (shown) place(); }, {capture: true, passive: true});
});
