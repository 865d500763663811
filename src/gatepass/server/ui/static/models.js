// What the upstreams list and the configuration routes, with its use, and the learned rules.

import { el, table } from "./dom.js";
import { errorLinks, summed } from "./error_code.js";
import { count, duration, moment, plural, span, time } from "./format.js";
import { t } from "./texts.js";

const SHOWN = 100;
const NAMES = 5;

/** The models that a form may suggest, as `[declared, others, routes]`: those of the routes, recent and listed ones, and the routes. */
export async function knownModels(page) {
  const [{ routes, listed }, { requests }] = await Promise.all([page.call("GET", "models"), page.call("GET", "requests?limit=200")]);
  const isName = (model) => !/[*?[]/.test(model); // no patterns
  const declared = routes.map(({ model }) => model).filter(isName);
  const recent = requests.filter((request) => request.model && request.outcome === "ok").map(({ model }) => model);
  return [declared, [...new Set([...recent, ...listed.filter(isName)])].filter((name) => !declared.includes(name)), routes];
}

export async function models(page) {
  const load = async () => {
    const [data, { rules: known }, { use }] = await Promise.all([page.call("GET", "models"), page.call("GET", "learned"), page.call("GET", "use")]);
    // other rows repeat the upstream of the table above
    const said = data.routes.filter(({ model, targets, operations, capabilities }) => model === "*" || targets.length > 1 || operations.length || Object.keys(capabilities ?? {}).length || targets.some((target) => target.model !== null && target.model !== model));
    page.main.replaceChildren(...[
      el("h1", {}, t("Models and rules")),
      el("section", {}, el("h2", {}, t("Models")), listed(data, use)),
      said.length > 0 && el("section", {}, el("h2", {}, t("Routes")), routes(said)),
      el("section", {},
        el("h2", {}, t("Learned rules")),
        known.length ? rules(page, known, load) : el("p.muted", {}, t("None. gatepass learns a rule when an upstream rejects a request and accepts it after a change.")))].filter(Boolean));
  };
  await load();
}

/** Each model that clients see or have used: those that fail first, then the used ones. Unused ones have the upstreams of the route. */
function listed({ listed: names, list_error: fault, routed }, use) {
  const used = Map.groupBy(use, ({ model }) => model);
  const first = Math.min(...use.map(({ first_at: at }) => at));
  const all = [...new Set([...used.keys(), ...names])].map((model) => {
    const rows = used.get(model) ?? [];
    return { model, rows, upstreams: [...new Set(rows.map(({ upstream }) => upstream))].filter(Boolean), ...summed(rows) };
  });
  const fails = ({ upstreams, failed_at: at }) => Boolean(at && upstreams.length);
  const isUnknown = ({ model, rows }) => rows.length > 0 && !names.includes(model) && rows.every(({ unknown }) => unknown);
  const shown = all.filter((one) => !isUnknown(one)).sort((a, b) => fails(b) - fails(a)).slice(0, SHOWN);
  return [
    fault && el("p.failed", {}, t("The list of an upstream is missing: {reason}", { reason: fault })),
    all.length ? table(t("Models"), [t("Model"), t("Listed"), t("Upstream"), t("Requests"), t("Errors"), t("Tokens"), `${t("Duration")}${t(", ")}p50 · p95`, t("Last use")], shown.map(({ model, rows, upstreams, ...sum }) => {
      const times = rows.flatMap((row) => row.durations_s).sort((a, b) => a - b);
      const last = rows.length ? Math.max(...rows.map((row) => row.last_at)) : null;
      return [
        el("a", { href: `#/requests?model=${encodeURIComponent(model)}` }, model),
        names.includes(model) ? t("yes") : t("no"),
        (rows.length ? upstreams : routed[model] ?? []).join(t(", ")) || "–",
        count(sum.requests),
        errorLinks(sum, { model }),
        count(sum.tokens),
        times.length ? [0.5, 0.95].map((part) => duration(times[Math.ceil(part * times.length) - 1])).join(" · ") : "–",
        el("span", { title: last && moment(last) }, time(last)),
      ];
    }).concat(unknownNames(all.filter(isUnknown).flatMap(({ rows }) => rows)))) : el("p.muted", {}, t("No model is listed, and none was used.")),
    el("p.muted.small.since", {}, all.length > SHOWN ? t("The first {shown} of {models}. ", { shown: count(SHOWN), models: plural(all.length, "model") }) : "", use.length ? t("The numbers count the requests in memory, since {at}. Durations leave out errors.", { at: moment(first) }) : ""),
  ];
}

/** The row of the names that no list has and of which each request was a 404, if there are any. */
function unknownNames(rows) {
  if (!rows.length) return [];
  const last = rows.reduce((one, other) => (other.last_at > one.last_at ? other : one));
  const callers = Object.keys(last.callers).map((name) => name || t("no valid key")).join(t(", "));
  const names = new Set(rows.map(({ model }) => model)).size;
  const sum = { ...summed(rows), failed_at: undefined };
  return [[
    el("a", { href: `#/requests?model=${encodeURIComponent(last.model)}` }, t("unknown names: {n}, last {model}, by {callers}", { n: count(names), model: last.model, callers: callers || "–" })),
    t("no"), "–", count(sum.requests), errorLinks(sum, {}), count(sum.tokens), "–",
    el("span", { title: moment(last.last_at) }, time(last.last_at)),
  ]];
}

function routes(list) {
  return table(t("Routes"), [t("Model"), t("Targets, in order"), t("Operations"), t("Capabilities")], list.map(({ model, targets, operations, capabilities }) => [
    el("a", { href: model === "*" ? "#/requests" : `#/requests?model=${encodeURIComponent(model)}` }, model === "*" ? t("each other model") : model),
    targets.map((target) => target.model === null || target.model === model ? target.upstream : t("{n} ({more})", { n: target.upstream, more: target.model })).join(t(", then ")),
    operations.join(t(", ")) || t("all"),
    capabilitiesOf(capabilities),
  ]));
}

function capabilitiesOf(capabilities) {
  const known = Object.entries(capabilities ?? {}).filter(([, value]) => value !== null && value !== undefined);
  return known.map(([name, value]) => value === true ? name : value === false ? t("no {name}", { name }) : `${name}${t(": ")}${typeof value === "object" ? JSON.stringify(value) : value}`).join(t(", ")) || "–";
}

function named(names, more) {
  const all = names.join(t(", "));
  return more > 0 ? t("{names} and {n} more", { names: all, n: count(more) }) : all;
}

/** To which requests a rule applies, if not to all. */
function reach({ beside, values, hidden_values: hidden }) {
  const isOne = values.length + hidden === 1;
  const sent = isOne ? t("only for the value that was sent") : t("only for the {n} values that were sent", { n: count(hidden) });
  const shown = { values: named(values, hidden) };
  const listed = isOne ? t("only for the value {values}", shown) : t("only for the values {values}", shown);
  return [
    beside && (beside.startsWith("!") ? t("only in requests without the betas {names}", { names: beside.slice(1) }) : t("only in requests with {name}", { name: beside })),
    values.length ? listed : hidden > 0 && sent,
  ].filter(Boolean);
}

function rules(page, list, load) {
  const heads = [t("Rule"), t("Callers"), `${t("Upstream")}${t(", ")}${t("operation")}`, t("Uses"), t("Learned"), t("Ends in"), t("Evidence"), ...(page.isAdmin ? [t("Forget")] : [])];
  const forget = async (rule) => {
    try {
      const { upstream, model, operation, adapted } = rule;
      await page.call("POST", "learned/forget", { upstream, model, operation, adapted });
      page.say(t("{rule} is forgotten.", { rule: adapted }));
      await load();
      page.main.focus();
    } catch (error) {
      page.fail(error);
    }
  };
  const shown = (rule) => [
    [el("code.rule", {}, rule.adapted), reach(rule).map((text) => el("p.small", {}, text)), rule.setting && el("p.small", {}, t("in the model's entry: "), el("code", {}, rule.setting))],
    named(rule.callers.slice(0, NAMES), rule.callers.length - NAMES),
    [rule.upstream, rule.operation].join(t(", ")),
    count(rule.uses),
    t("{s} ago", { s: span(rule.age_s) }),
    span(rule.expires_in_s),
    el("q", {}, rule.evidence),
    ...(page.isAdmin ? [el("button.quiet", { type: "button", "aria-label": t("Forget {rule} of {model}", { rule: rule.adapted, model: rule.model }), onclick: () => forget(rule) }, t("Forget"))] : []),
  ];
  const groups = Map.groupBy(list, ({ model }) => model);
  return [...groups].map(([model, own]) => el("section", {}, el("h3", {}, model), table(`${t("Learned rules")}${t(": ")}${model}`, heads, own.map(shown))));
}
