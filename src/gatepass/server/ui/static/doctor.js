// Tests every hop, and shows the steps by hop: the hops that fail first.

import { events } from "./api.js";
import { el, set, write } from "./dom.js";
import { duration, plural } from "./format.js";
import { knownModels } from "./models.js";
import { known, t } from "./texts.js";

const MARKS = { works: "✓", fails: "✕", unproven: "?", skipped: "–" };
const WORDS = { works: t("works"), fails: t("fails"), unproven: t("not proven"), skipped: t("skipped") };

/** The operations that `gatepass doctor --operation` calls. */
const OPERATIONS = ["chat", "completions", "embeddings", "rerank", "messages"];

export async function doctor(page) {
  const hops = el("div.hops", { "aria-live": "polite" });
  const end = el("p", { role: "status" });
  const list = el("datalist", { id: "doctor-models" });
  const call = el("input", { type: "checkbox", name: "call" });
  // an operation is called, so that its choice ticks the checkbox
  const operation = el("select", { name: "operation", onchange: () => { call.checked ||= operation.value !== ""; } },
    el("option", { value: "" }, t("by the model")), OPERATIONS.map((name) => el("option", { value: name }, name)));
  const button = el("button", { type: "submit" }, t("Test every hop"));
  const stop = el("button.quiet", { type: "button", hidden: true }, t("Stop"));
  let hasModels = true;
  const submit = async (event) => {
    event.preventDefault();
    const { model, operation, call } = Object.fromEntries(new FormData(form));
    if (call !== undefined && !model && !hasModels) {
      write(end, t("Name the model of the real call. The configuration names none."));
      form.querySelector("input").focus();
      return;
    }
    const leaving = new AbortController();
    page.signal.addEventListener("abort", () => leaving.abort());
    set(stop, { hidden: false, onclick: () => leaving.abort() });
    button.disabled = true;
    hops.replaceChildren();
    write(end, "");
    let last = { error: { message: t("The connection ended before the doctor did.") } };
    try {
      for await (const { event: name, data } of events("doctor", { ...(model && { model }), ...(operation && { operation }), call: call !== undefined }, leaving.signal)) {
        if (name === "begin") begin(hops, data);
        if (name === "step") finish(hops, data);
        if (name === "end") last = data;
      }
      forgetBegun(hops);
      const steps = plural(hops.querySelectorAll("li").length, "step");
      write(end, last.error?.message ?? (last.failed ? t("{n} of {steps} failed.", { n: last.failed, steps }) : t("No step failed.")));
    } catch (error) {
      write(end, leaving.signal.aborted ? t("Stopped.") : error.message);
    }
    forgetBegun(hops);
    button.disabled = false;
    stop.hidden = true;
  };
  const form = el("form.filters", { onsubmit: submit, "aria-label": t("Doctor") },
    el("label", {}, el("span", {}, t("model")), el("input", { name: "model", placeholder: t("all hops"), list: "doctor-models", autocomplete: "off" })),
    el("label", {}, el("span", {}, t("operation")), operation),
    el("label.check", {}, call, t(" with a real call of the model")),
    button, stop, list);
  page.main.append(el("h1", {}, t("Doctor")),
    page.isAdmin ? form : el("p.muted", {}, t("The doctor requires the key of an admin.")), end, hops);
  if (!page.isAdmin) return;
  const [declared, others] = await knownModels(page);
  hasModels = declared.length > 0;
  list.append(...[...declared, ...others].map((name) => el("option", { value: name })));
}

/** The section of a hop, made at its first step. */
function hopOf(hops, name) {
  const found = [...hops.children].find((section) => section.dataset.hop === name);
  if (found) return found;
  const made = el("details.hop", { open: true, "data-hop": name }, el("summary", {}, el("b", {}, name), " ", el("span.muted.sum")), el("ol.steps"));
  hops.append(made);
  return made;
}

/** Advice of doctor, which names an option of its command where this page has a checkbox. */
function onPage(advice) {
  return known(advice).replace("--operation rerank", t("the operation rerank")).replace(/(Run )?`(gatepass doctor \S+ )?--call`/, (_, run) => `${run ? "Tick " : ""}${t("the checkbox “with a real call of the model”")}`);
}

function begin(hops, { hop, what }) {
  forgetBegun(hops);
  hopOf(hops, hop).querySelector("ol").append(el("li.begun", { "data-what": what }, el("i", { "aria-hidden": "true" }, "…"), el("div", {}, known(what))));
}

/** Remove the steps that began and were not necessary after all, as TLS for plain HTTP. */
function forgetBegun(hops) {
  for (const step of hops.querySelectorAll(".begun")) step.remove();
  for (const section of hops.querySelectorAll(".hop")) if (!section.querySelector("li")) section.remove();
}

/** Show how a step ended. A hop that fails moves to the top, one that works is folded. */
function finish(hops, { hop, what, outcome, why, advice, seconds }) {
  const section = hopOf(hops, hop);
  const begun = [...section.querySelectorAll(".begun")].find((step) => step.dataset.what === what);
  const done = el(outcome === "fails" ? "li.bad" : "li", { "data-outcome": outcome },
    el("i", { "aria-hidden": "true" }, MARKS[outcome]),
    el("div", {},
      known(what), " ", el("span.muted", {}, [WORDS[outcome], seconds > 0 && duration(seconds)].filter(Boolean).join(", ")),
      why && el("p", {}, known(why)), advice && el("p.advice", {}, onPage(advice))));
  if (begun) begun.replaceWith(done);
  else section.querySelector("ol").append(done);
  const steps = [...section.querySelectorAll("li:not(.begun)")];
  const failed = section.querySelectorAll(".bad").length;
  const isGood = steps.every(({ dataset }) => dataset.outcome === "works" || dataset.outcome === "skipped");
  set(section, { class: failed ? "hop bad" : "hop", open: !isGood });
  write(section.querySelector(".sum"), failed ? t("{n} of {steps} failed.", { n: failed, steps: plural(steps.length, "step") }) : plural(steps.length, "step"));
  if (outcome === "fails") {
    const before = [...hops.children].find((other) => !other.classList.contains("bad"));
    if (before && before !== section && before.compareDocumentPosition(section) & Node.DOCUMENT_POSITION_FOLLOWING) hops.insertBefore(section, before);
    section.scrollIntoView({ block: "nearest" });
  }
}
