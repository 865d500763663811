// Tests every hop, and shows the steps by hop: the hops that fail first.

import { events, requestsOf } from "./api.js";
import { el, set, write } from "./dom.js";
import { failing, parted } from "./drawing.js";
import { advised, happened, inline, summed } from "./error_code.js";
import { count, duration, plural } from "./format.js";
import { knownModels } from "./models.js";
import { said, t } from "./texts.js";

const MARKS = { works: "✓", fails: "✕", unproven: "?", skipped: "–" };
const WORDS = { works: t("works"), fails: t("fails"), unproven: t("not proven"), skipped: t("skipped") };

/** The operations that `gatepass doctor --operation` calls. */
const OPERATIONS = ["chat", "completions", "embeddings", "rerank", "messages", "responses"];

export async function doctor(page) {
  const hops = el("div.hops", { "aria-live": "polite" });
  const end = el("p", { role: "status" }, page.isAdmin && t("Tests each token, model list and MCP server. That calls no model and costs nothing. A real call sends a few words to the named model, or to the first one of each operation, and may be billed."));
  const list = el("datalist", { id: "doctor-models" });
  const call = el("input", { type: "checkbox", name: "call" });
  // an operation is called, so that its choice ticks the checkbox
  const operation = el("select", { name: "operation", onchange: () => { call.checked ||= operation.value !== ""; } },
    el("option", { value: "" }, t("by the model")), OPERATIONS.map((name) => el("option", { value: name }, name)));
  const button = el("button", { type: "submit" }, t("Test every hop"));
  const stop = el("button.quiet", { type: "button", hidden: true }, t("Stop"));
  let declared = null;
  let failed = [];
  let upstreams = [];
  let routes = [];
  /** The models that a hop serves. */
  const modelsOf = (hop) => {
    const names = routes.filter(({ targets }) => targets.some(({ upstream }) => [`upstream:${upstream}`, `credential:${upstreams.find(({ name }) => name === upstream)?.credential}`].includes(hop))).map(({ model }) => (model === "*" ? t("each other model") : model));
    return names.length ? t("; models: {names}", { names: [...new Set(names)].join(t(", ")) }) : "";
  };
  let run = page.kept;
  const show = ({ event, data }) => {
    if (event === "begin") begin(hops, data);
    if (event === "step") finish(hops, data);
    if (event === "end") run.last = data;
  };
  const sumUpRun = ({ model, isCalled, last, events: received }) => {
    forgetBegun(hops);
    const steps = plural(hops.querySelectorAll("li").length, "step");
    const named = [...new Set(received.map(({ data }) => data.model).filter(Boolean))];
    const left = failed.filter((name) => !named.includes(name)).flatMap((name, i) => [i ? t(", ") : "", el("a.failed", { href: requestsOf({ outcome: "error", model: name }) }, name)]);
    const more = model ? [] : isCalled ? [
      t(" {n} of {m} called: {names}.", { n: count(named.length), m: plural(new Set([...declared ?? [], ...named]).size, "model"), names: named.join(t(", ")) || t("none") }),
      ...left.length ? [t(" Not called, and failing in memory: "), ...left] : [],
    ] : [t(" No model was called: {box} does that.", { box: t("the checkbox “with a real call of the model”") })];
    const reach = (event, section) => [event.preventDefault(), section.scrollIntoView(), section.querySelector("summary").focus()]; // the hash names the view
    for (const section of hops.querySelectorAll(".hop.bad")) write(section.querySelector(".hit"), modelsOf(section.dataset.hop));
    const bad = [...hops.querySelectorAll(".hop.bad")].flatMap((section, i) => [i ? " · " : "", el("a", { href: "#/doctor", onclick: (event) => reach(event, section) }, section.dataset.hop)]);
    end.replaceChildren(...!last ? [t("Stopped.")] : last.error ? [last.error.message] : bad.length ? [t("{n} of {steps} failed: ", { n: last.failed, steps }), ...bad, ...isCalled && more.length ? [t(". "), ...more] : []] : [t("No step failed."), ...more]);
  };
  const submit = async (event) => {
    event.preventDefault();
    const { model, operation, call } = Object.fromEntries(new FormData(form));
    if (call !== undefined && !model && declared?.length === 0) {
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
    run = { model, operation, isCalled: call !== undefined, events: [], last: { error: { message: t("The connection ended before the doctor did.") } } };
    try {
      for await (const one of events("doctor", { ...(model && { model }), ...(operation && { operation }), call: run.isCalled }, leaving.signal)) {
        run.events.push(one);
        show(one);
      }
    } catch (error) {
      run.last = leaving.signal.aborted ? null : { error: { message: error.message } };
    }
    sumUpRun(run);
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
  page.keep(() => run && { ...run, last: button.disabled ? null : run.last });
  if (run) {
    form.elements.model.value = run.model;
    operation.value = run.operation;
    call.checked = run.isCalled;
    run.events.forEach(show);
    sumUpRun(run);
  }
  const [[routed, others, all], { use }, status] = await Promise.all([knownModels(page), page.call("GET", "use"), page.call("GET", "status")]);
  routes = all;
  const parts = parted(status);
  upstreams = parts.upstreams;
  const down = failing(parts);
  declared = [...new Set(routed)];
  failed = declared.filter((name) => {
    const { requests, errors } = summed(use.filter(({ model }) => model === name));
    return errors * 2 > requests;
  });
  list.append(...[...declared, ...others].map((name) => el("option", { value: name })));
  if (run && !button.disabled) sumUpRun(run);
  else if (!run && down.length) end.append(" ", el("span.failed", {}, t("Fails: "), down));
}

/** The section of a hop, made at its first step. */
function hopOf(hops, name) {
  const found = [...hops.children].find((section) => section.dataset.hop === name);
  if (found) return found;
  const made = el("details.hop", { open: true, "data-hop": name }, el("summary", {}, el("i", { "aria-hidden": "true" }), " ", el("b", {}, name), " ", el("span.muted.sum"), el("span.muted.hit")), el("ol.steps"));
  hops.append(made);
  return made;
}

function begin(hops, { hop, what }) {
  forgetBegun(hops);
  const section = hopOf(hops, hop);
  write(section.querySelector("i"), "…");
  write(section.querySelector(".sum"), t(what));
  section.querySelector("ol").append(el("li.begun", { "data-what": what }, el("i", { "aria-hidden": "true" }, "…"), el("div", {}, t(what))));
}

/** Remove the steps that began and were not necessary after all. */
function forgetBegun(hops) {
  for (const step of hops.querySelectorAll(".begun")) {
    const section = step.closest(".hop");
    step.remove();
    if (section.querySelector("li")) sumUp(section);
    else section.remove();
  }
}

/** Show how a step ended. A hop that fails moves to the top, its failed step first. One that works is folded. */
function finish(hops, step) {
  const { hop, what, outcome, why, seconds, error } = step;
  const section = hopOf(hops, hop);
  const advice = said(step, "advice");
  const done = el(outcome === "fails" ? "li.bad" : "li", { "data-outcome": outcome, "data-seconds": seconds, "data-called": ["call", "stream"].includes(what) },
    el("i", { "aria-hidden": "true" }, MARKS[outcome]),
    el("div", {},
      t(what), " ", el("span.muted", {}, [WORDS[outcome], seconds > 0 && duration(seconds)].filter(Boolean).join(t(", "))),
      error ? happened({ sentence_zh: step.why_zh }, why) : el("p", {}, said(step, "why")),
      advice && (outcome === "fails" ? advised(advice) : el("p.advice", {}, inline(advice)))));
  for (const step of section.querySelectorAll(".begun")) if (step.dataset.what === what) step.remove();
  const list = section.querySelector("ol");
  list.insertBefore(done, outcome === "fails" ? list.querySelector("li:not(.bad)") : null);
  sumUp(section);
  if (outcome !== "fails") return;
  const before = [...hops.children].find((other) => !other.classList.contains("bad"));
  if (before?.compareDocumentPosition(section) & Node.DOCUMENT_POSITION_FOLLOWING) hops.insertBefore(section, before);
  hops.querySelector("li.bad").scrollIntoView({ block: "nearest" });
}

/** The line of a hop: its worst outcome, and the time of its steps. A call proves more than a model list. */
function sumUp(section) {
  const steps = [...section.querySelectorAll("li:not(.begun)")];
  const isProven = steps.some(({ dataset }) => dataset.outcome === "works" && dataset.called !== undefined);
  const outcome = ["fails", ...isProven ? [] : ["unproven"], "skipped", "works"].find((one) => steps.some(({ dataset }) => dataset.outcome === one));
  const seconds = steps.reduce((sum, { dataset }) => sum + Number(dataset.seconds), 0);
  set(section, { class: outcome === "fails" ? "hop bad" : "hop", open: !["works", "skipped"].includes(outcome) || section.querySelector(isProven ? "li:not([data-outcome=unproven]) .advice" : ".advice") !== null });
  write(section.querySelector("i"), MARKS[outcome]);
  write(section.querySelector(".sum"), [WORDS[outcome], seconds > 0 && duration(seconds)].filter(Boolean).join(t(", ")));
}
