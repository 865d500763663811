// The drawing of the overview: clients, gatepass, credentials and upstreams. What moves in it is a datum.

import { requestsOf } from "./api.js";
import { el, keyed, set, svg, write } from "./dom.js";
import { count, countdown, plural, share, since, span, time } from "./format.js";
import { t } from "./texts.js";
import { wires } from "./wires.js";

const HISTORY_S = 900;
const USABLE = ["fresh", "stale"];
const FAILS = 2;
/** An upstream fails, if at least so many requests in 15 minutes failed at it and no other one succeeded. */
const ALL_OF = 3;

/** Returns `{node, show(overview)}`. */
export function drawing(signal) {
  const clients = el("article.card", {},
    el("h3", {}, t("Clients")), el("p.big", {}, el("b.rate"), " ", el("span.muted", {}, t("requests/min"))));
  const gate = el("article.card.own", {},
    el("h3", {}, "gatepass"), el("p.big", {}, el("b.flight"), " ", el("span.muted", {}, t("in flight"))), el("p.standing"));
  const branches = el("ul.branches");
  const node = el("div.map", {}, el("div.stage", {}, clients), el("div.stage", {}, gate), branches);
  const draw = wires(node, signal);

  const show = (data) => {
    const { series } = data;
    const minute = Math.round(60 / series.width_s);
    const total = sum(series.requests);
    write(clients.querySelector(".rate"), count(sum(series.requests.slice(-minute))));
    write(gate.querySelector(".flight"), count(data.in_flight));
    const standing = gate.querySelector(".standing");
    write(standing, data.draining ? t("draining") : data.ready ? t("ready") : t("not ready"));
    set(standing, { class: data.ready && !data.draining ? "standing muted" : "standing failed" });

    const upstreams = worstFirst(data);
    const groups = grouped(data.credentials, upstreams);
    keyed(branches, groups, ({ key }) => key, makeBranch, (branch, group) => {
      if (group.credential) showCredential(branch.querySelector(".credential"), group.credential, data.at);
      keyed(branch.querySelector(".upstreams"), group.upstreams, ({ name }) => name, makeUpstream, showUpstream);
    });

    const links = [{ key: "clients", from: clients, to: gate, dots: data.in_flight, width: 2 }];
    for (const { key, credential, upstreams: reached } of groups) {
      const branch = branches.nodesByKey.get(key);
      const card = branch.querySelector(".credential");
      const flight = sum(reached.map(({ in_flight }) => in_flight));
      const isBad = Boolean(credential?.failing);
      if (card) links.push({ key: `to ${key}`, from: gate, to: card, isBad, dots: flight, width: thickness(reached, total) });
      for (const upstream of reached) {
        const to = branch.querySelector(".upstreams").nodesByKey.get(upstream.name);
        const busy = { dots: upstream.in_flight, width: thickness([upstream], total), isBad: rank(upstream) === FAILS };
        links.push({ key: `to upstream ${upstream.name}`, from: card ?? gate, to, ...busy });
      }
    }
    draw(links);
    set(node, { "data-upstreams": upstreams.length });
  };
  return { node, show };
}

/** The credentials and upstreams of a status as lists. An MCP server is one of the upstreams. */
export function parted({ credentials, upstreams, mcp, targets = {} }) {
  const servers = Object.entries(mcp?.servers ?? {}).map(([name, server]) => [`mcp/${name}`, { dialect: "mcp", ...server }]);
  const away = Object.values(targets).flat().filter(({ state }) => state !== "available");
  const awayOf = (name) => new Map(away.filter(({ upstream }) => upstream === name).map(({ model, state }) => [model, state]));
  return {
    credentials: Object.entries(credentials).map(([name, one]) => ({ name, ...one })),
    // as the strip and the list of requests count errors; errors_15m alone are faults of the upstream, and decide its colour
    upstreams: [...Object.entries(upstreams), ...servers].map(([name, one]) => ({ name, ...one, all_errors: one.errors_15m + one.rejected_15m, away: awayOf(name) })),
  };
}

/** The upstreams, those that fail first. `lacks` names the credential of one that has no token, because no fetch succeeds. One that
 * `rejects` a token may accept it for another model. */
export function worstFirst({ credentials, upstreams }) {
  const failed = credentials.filter(({ failing, state }) => failing && !USABLE.includes(state)).map(({ name }) => name);
  const rejecting = credentials.flatMap(({ rejected_by: by }) => Object.keys(by ?? {}));
  const all = upstreams.map((upstream) => ({ ...upstream, lacks: failed.find((name) => name === upstream.credential), rejects: rejecting.includes(upstream.name) }));
  return all.sort((a, b) => rank(b) - rank(a));
}

function rank(upstream) {
  const { health, lacks, rejects, many_errors: hasManyErrors, requests_15m: requests, errors_15m: errors } = upstream;
  return lacks || health === "failing" || (requests >= ALL_OF && errors >= requests) ? FAILS : hasManyErrors || rejects ? 1 : 0;
}

/** Since when an upstream fails, or, if it works, how long ago its last request failed. */
function failedWhen(upstream) {
  const { last_failed: last } = upstream;
  return !last ? "" : rank(upstream) === FAILS ? since(Date.now() / 1000 - last.for_s) : ` ${t("{s} ago", { s: span(last.age_s) })}`;
}

/** What fails, as links to its last error, and since when: upstreams, credentials that they lack, and rejected tokens. */
export function failing(data) {
  const errors = (hop) => requestsOf({ outcome: "error", hop });
  const nameOf = (upstream) => rank(upstream) === FAILS ? t("upstream {name}", upstream) : t("{code} at {hop}", { code: upstream.last_failed?.code ?? "upstream_auth", hop: `upstream:${upstream.name}` });
  const found = worstFirst(data).filter((upstream) => rank(upstream) === FAILS || upstream.rejects).map((upstream) => {
    const { name, lacks, last_failed: last } = upstream;
    return lacks ? [t("credential {name}", { name: lacks }), [errors(`credential:${lacks}`), since(data.credentials.find((one) => one.name === lacks).failing_since)]] : [nameOf(upstream), [last ? `#/requests/${encodeURIComponent(last.id)}` : errors(`upstream:${name}`), failedWhen(upstream)]];
  });
  return [...new Map(found)].flatMap(([text, [href, when]], i) => [i ? t(", ") : "", el("a", { href }, text), when]);
}

/** A group for each credential with its upstreams, and one without: those with a failure first. */
function grouped(credentials, upstreams) {
  const groups = credentials.map((credential) => ({
    key: `credential ${credential.name}`,
    credential,
    upstreams: upstreams.filter((upstream) => upstream.credential === credential.name),
  }));
  const rest = upstreams.filter((upstream) => !credentials.some(({ name }) => name === upstream.credential));
  if (rest.length) groups.push({ key: "no credential", credential: null, upstreams: rest });
  const worst = ({ credential, upstreams: own }) => Math.max(credential && hasFault(credential) ? FAILS : 0, ...own.map(rank));
  return groups.sort((a, b) => worst(b) - worst(a));
}

function hasFault({ failing, state, rejected_by: rejecting }) {
  return failing || !USABLE.includes(state) || Object.keys(rejecting ?? {}).length > 0;
}

/** The width of a line in pixels, by its share of the requests. */
function thickness(upstreams, total) {
  return 1.5 + 3 * Math.min(1, sum(upstreams.map(({ requests_15m }) => requests_15m)) / Math.max(1, total));
}

function makeBranch({ credential }) {
  return el("li.branch", {}, credential ? makeCredential(credential) : el("span.none"), el("ul.upstreams"));
}

function makeCredential({ name, type }) {
  return el("article.card.credential", { "data-credential": name },
    el("h3", {}, name, " ", el("span.kind", {}, type)),
    el("p.life-text", {}, el("b.left"), " ", el("span.muted.of")),
    svg("svg.life", { width: "100%", height: 10, "aria-hidden": "true" },
      svg("rect.track", { width: "100%", height: 10, rx: 5 }), svg("rect.left-bar", { height: 10, rx: 5 }),
      svg("rect.due", { y: 0, width: 2, height: 10 })),
    svg("svg.renewals", { width: "100%", height: 12, role: "img" },
      svg("line", { x1: 0, x2: "100%", y1: 11.5, y2: 11.5 }), svg("g")),
    el("p.small.facts"), el("p.small.failed.fault"));
}

function showCredential(card, credential, now) {
  const { age_s: age, expires_in_s: left, next_try_in_s: refresh, failing, state } = credential;
  const life = left === null || age === null ? null : age + left;
  const lasts = left === null && state !== "none";
  const part = lasts ? 1 : clamp(left / life);
  const isUsable = USABLE.includes(state);
  set(card, { class: `card credential${failing || !isUsable ? " bad" : ""}`, "data-state": state });
  write(card.querySelector(".left"), lasts ? t("Does not expire") : isUsable ? countdown(left) : t("No token"));
  write(card.querySelector(".of"), lasts ? "" : isUsable ? t("left of {life}", { life: span(life) }) : (state === "none" ? "" : t(state)) + since(credential.failing_since));
  for (const shape of card.querySelectorAll("svg")) set(shape, { class: shape.classList[0] + (lasts ? " none" : "") });
  set(card.querySelector(".left-bar"), { width: percent(isUsable ? part : 0) });
  const due = !lasts && isUsable && refresh !== null && life ? clamp((left - refresh) / life) : null;
  set(card.querySelector(".due"), { x: percent(due ?? 0), visibility: due === null ? "hidden" : "visible" });

  const recent = credential.renewals.filter(({ at }) => now - at <= HISTORY_S);
  const history = card.querySelector(".renewals");
  const bad = recent.filter(({ ok }) => !ok).length;
  set(history, { "aria-label": t("{renewals} in 15 minutes, {bad} failed", { renewals: plural(recent.length, "renewal"), bad }) });
  keyed(history.lastChild, recent, ({ at, ok }) => `${at} ${ok}`, () => svg("line", {}, svg("title")), (mark, { at, ok, reason }) => {
    const x = percent(1 - (now - at) / HISTORY_S);
    set(mark, { class: ok ? "mark" : "mark bad", x1: x, x2: x, y1: ok ? 4 : 0, y2: 12 });
    write(mark.firstChild, `${time(at)} ${ok ? t("renewed") : t("failed")}${reason ? `${t(": ")}${reason}` : ""}`);
  });

  const facts = [plural(credential.fetches, "fetch", "fetches")];
  if (credential.failures) facts.push(t("{n} failed", { n: count(credential.failures) }));
  if (refresh !== null && !lasts) facts.unshift(refresh <= 0 ? t("renewal is due") : failing || !isUsable ? t("next try in {s}", { s: countdown(refresh) }) : t("renews in {s}", { s: countdown(refresh) }));
  write(card.querySelector(".facts"), facts.join(" · "));
  const rejections = Object.keys(credential.rejected_by ?? {});
  const faults = [rejections.length && t("rejected by {names}", { names: rejections.join(t(", ")) }), failing && (credential.last_error ?? t("the last fetch failed")), credential.needs_restart && t("a new secret requires a restart, because it is in an environment variable")];
  write(card.querySelector(".fault"), faults.filter(Boolean).join(" · "));
}

function makeUpstream({ name, host, dialect }) {
  return el("li.card.upstream", { "data-upstream": name },
    el("h3", { title: host }, el("a", { href: requestsOf({ upstream: name }) }, name), " ", el("span.kind", {}, dialect)),
    healthLine(),
    svg("svg.errors", { width: "100%", height: 4, "aria-hidden": "true" },
      svg("rect.track", { width: "100%", height: 4, rx: 2 }), svg("rect.part", { height: 4, rx: 2 })),
    el("p.small.facts", {}, el("a"), el("span")));
}

function showUpstream(card, upstream) {
  const { name, health, all_errors: errors, requests_15m: requests, away } = upstream;
  set(card, { class: `card upstream${rank(upstream) === FAILS ? " bad" : ""}`, "data-health": health });
  const silent = Object.values(upstream.silent ?? {}); // seconds, by stream
  const stuck = silent.length ? t(", {n} silent for {s}", { n: count(silent.length), s: span(Math.max(...silent)) }) : "";
  write(showHealth(card.querySelector(".health"), upstream).lastChild, upstream.in_flight ? ` · ${t("{n} in flight", { n: count(upstream.in_flight) })}${stuck}` : "");
  set(card.querySelector(".part"), { width: percent(requests ? clamp(upstream.errors_15m / requests) : 0) }); // red: its own faults alone
  const rate = requests ? t("{share} errors of {requests} in 15 min", { share: share(errors, requests), requests: plural(requests, "request") }) : t("nothing sent in 15 minutes");
  const link = card.querySelector(".facts a");
  set(write(link, rate), { href: requestsOf({ upstream: name, outcome: errors ? "error" : "" }) });
  const targets = [...away].map(([model, state]) => `${model}${t(": ")}${t(state.replace("_", " "))}`);
  write(link.nextSibling, ["", plural(upstream.open_connections, "connection"), ...targets].join(" · "));
}

/** A line for `showHealth`, with a place for a text behind it. */
export function healthLine() {
  return el("p.health", {}, el("span"), el("a"), el("span"));
}

/** Show the health of an upstream of `worstFirst`: the credential that it lacks, or the last request that failed. */
export function showHealth(line, upstream) {
  const { health, lacks, rejects, last_failed: last, many_errors: hasManyErrors, requests_15m: requests, errors_15m: errors } = upstream;
  const failed = (health === "failing" || rejects) && !lacks ? last : null;
  const [state, link] = line.children;
  set(line, { class: `health${rank(upstream) === FAILS ? " failed" : ""}` });
  const working = requests && errors >= requests ? t("every request failed") : rejects ? t("rejected a token") : hasManyErrors ? t("many errors") : t("healthy");
  const shown = { ok: working, failing: t("failing"), unknown: requests ? t("no good answer yet") : t("no answer yet"), answering: t("answering") }[health] ?? health;
  write(state, lacks ? t("no token, its credential fails: ") : shown + (failed ? failedWhen(upstream) + (health === "failing" ? t(", last error: ") : t(", ")) : ""));
  write(link, lacks ?? failed?.code ?? "");
  set(link, { href: lacks ? `#/?credential=${encodeURIComponent(lacks)}` : failed ? `#/requests/${encodeURIComponent(failed.id)}` : null });
  return line;
}

function clamp(value) {
  return Number.isFinite(value) ? Math.min(1, Math.max(0, value)) : 0;
}

function percent(value) {
  return `${(100 * value).toFixed(2)}%`;
}

function sum(numbers) {
  return numbers.reduce((total, value) => total + (value ?? 0), 0);
}
