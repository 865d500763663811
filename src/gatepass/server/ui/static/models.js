// Routes, capabilities and learned rules.

import { copyButton, el, table } from "./dom.js";
import { count, span } from "./format.js";

/** The models that a form may suggest, as `[declared, recent]`: those of the routes, and others of recent requests. */
export async function knownModels(page, operation) {
  const [{ routes }, { requests }] = await Promise.all([page.call("GET", "models"), page.call("GET", "requests?limit=200")]);
  const declared = routes.filter(({ model, operations }) => !/[*?[]/.test(model) && (!operation || !operations.length || operations.includes(operation))); // no patterns
  const recent = requests.filter((request) => request.model && request.outcome === "ok" && (!operation || request.operation === operation));
  const names = declared.map(({ model }) => model);
  return [names, [...new Set(recent.map(({ model }) => model))].filter((name) => !names.includes(name))];
}

export async function models(page) {
  const load = async () => {
    const data = await page.call("GET", "models");
    page.main.replaceChildren(
      el("h1", {}, "Models and rules"),
      el("section", {}, el("h2", {}, "Routes"), routes(data.routes)),
      el("section", {},
        el("div.above", {}, el("h2", {}, "Learned rules"), data.rules.length > 0 && copyButton("Copy as YAML", () => data.yaml, page.say)),
        data.rules.length ? rules(page, data.rules, load) : el("p.muted", {}, "None. gatepass learns a rule when an upstream rejects a parameter, and the request succeeds without it.")));
  };
  await load();
}

function routes(list) {
  if (!list.length) return el("p.muted", {}, "No model has a route.");
  return table("Routes", ["Model", "Targets, in order", "Operations", "Capabilities"], list.map(({ model, targets, operations, capabilities }) => [
    el("a", { href: `#/requests?model=${encodeURIComponent(model)}` }, model),
    targets.map((target) => target.model === null || target.model === model ? target.upstream : `${target.upstream} (${target.model})`).join(", then "),
    operations.join(", ") || "all",
    capabilitiesOf(capabilities),
  ]));
}

function capabilitiesOf(capabilities) {
  const known = Object.entries(capabilities ?? {}).filter(([, value]) => value !== null && value !== undefined);
  return known.map(([name, value]) => value === true ? name : value === false ? `no ${name}` : `${name}: ${typeof value === "object" ? JSON.stringify(value) : value}`).join(", ") || "–";
}

function rules(page, list, load) {
  const heads = ["Rule", "Model", "State", "Uses", "Learned", "Ends in", "Evidence", ...(page.isAdmin ? ["Forget"] : [])];
  const forget = async (rule) => {
    try {
      const { upstream, model, operation, adapted } = rule;
      await page.call("POST", "rules/forget", { upstream, model, operation, adapted });
      page.say(`${adapted} is forgotten.`);
      await load();
      page.main.focus();
    } catch (error) {
      page.fail(error);
    }
  };
  return table("Learned rules", heads, list.map((rule) => [
    el("code", {}, rule.adapted),
    `${rule.upstream} ${rule.model}, ${rule.operation}`,
    rule.state === "failed" ? el("span.failed", {}, rule.state) : rule.state,
    count(rule.uses),
    `${span(rule.age_s)} ago`,
    span(rule.expires_in_s),
    el("q", {}, rule.evidence),
    ...(page.isAdmin ? [el("button.quiet", { type: "button", "aria-label": `Forget ${rule.adapted} of ${rule.model}`, onclick: () => forget(rule) }, "Forget")] : []),
  ]));
}
