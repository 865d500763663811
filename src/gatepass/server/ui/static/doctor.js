// Tests every hop, and shows each step as it ends.

import { events } from "./api.js";
import { el, set, write } from "./dom.js";
import { duration, plural } from "./format.js";
import { knownModels } from "./models.js";

const MARKS = { works: "✓", fails: "✕", unproven: "?", skipped: "–" };
const WORDS = { works: "works", fails: "fails", unproven: "not proven", skipped: "skipped" };

export async function doctor(page) {
  const steps = el("ol.steps", { "aria-live": "polite" });
  const end = el("p", { role: "status" });
  const list = el("datalist", { id: "doctor-models" });
  const button = el("button", { type: "submit" }, "Test every hop");
  const stop = el("button.quiet", { type: "button", hidden: true }, "Stop");
  let hasModels = true;
  const submit = async (event) => {
    event.preventDefault();
    const { model, call } = Object.fromEntries(new FormData(form));
    if (call !== undefined && !model && !hasModels) {
      write(end, "Name the model of the real call. The configuration names none.");
      form.querySelector("input").focus();
      return;
    }
    const leaving = new AbortController();
    page.signal.addEventListener("abort", () => leaving.abort());
    set(stop, { hidden: false, onclick: () => leaving.abort() });
    button.disabled = true;
    steps.replaceChildren();
    write(end, "");
    let last = { error: { message: "The connection ended before the doctor did." } };
    try {
      for await (const { event: name, data } of events("doctor", { ...(model && { model }), call: call !== undefined }, leaving.signal)) {
        if (name === "begin") begin(steps, data);
        if (name === "step") finish(steps, data);
        if (name === "end") last = data;
      }
      for (const step of steps.querySelectorAll(".begun")) step.remove();
      const result = last.failed ? `${last.failed} of ${plural(steps.children.length, "step")} failed.` : "No step failed.";
      write(end, last.error?.message ?? result);
    } catch (error) {
      if (leaving.signal.aborted) write(end, "Stopped.");
      else write(end, error.message);
    }
    for (const step of steps.querySelectorAll(".begun")) step.remove();
    button.disabled = false;
    stop.hidden = true;
  };
  const form = el("form.filters", { onsubmit: submit, "aria-label": "Doctor" },
    el("label", {}, el("span", {}, "model"), el("input", { name: "model", placeholder: "all hops", list: "doctor-models", autocomplete: "off" })),
    el("label.check", {}, el("input", { type: "checkbox", name: "call" }), " with a real call of the model"),
    button, stop, list);
  page.main.append(el("h1", {}, "Doctor"),
    page.isAdmin ? form : el("p.muted", {}, "The doctor requires the key of an admin."), steps, end);
  if (!page.isAdmin) return;
  const [declared, recent] = await knownModels(page);
  hasModels = declared.length > 0;
  list.append(...[...declared, ...recent].map((name) => el("option", { value: name })));
}

function begin(steps, { hop, what }) {
  for (const step of steps.querySelectorAll(".begun")) step.remove(); // begun, and not necessary after all, as TLS for plain HTTP
  steps.append(el("li.begun", { "data-what": `${hop} ${what}` }, el("i", { "aria-hidden": "true" }, "…"), el("div", {}, el("b", {}, hop), " ", what)));
}

/** Show how a step ended, in the place where it began. */
function finish(steps, { hop, what, outcome, why, advice, seconds }) {
  const begun = [...steps.children].find((step) => step.dataset.what === `${hop} ${what}` && step.classList.contains("begun"));
  const done = el(outcome === "fails" ? "li.bad" : "li", { "data-outcome": outcome },
    el("i", { "aria-hidden": "true" }, MARKS[outcome]),
    el("div", {},
      el("b", {}, hop), " ", what, " ", el("span.muted", {}, [WORDS[outcome], seconds > 0 && duration(seconds)].filter(Boolean).join(", ")),
      why && el("p", {}, why), advice && el("p.advice", {}, advice)));
  if (begun) begun.replaceWith(done);
  else steps.append(done);
}
