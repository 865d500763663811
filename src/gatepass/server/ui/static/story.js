// One request: its way, its attempts, what was changed, and where the time went.

import { query } from "./api.js";
import { arrivalsText } from "./arrivals.js";
import { advised, codeLinks, happened } from "./error_code.js";
import { copyButton, el, svg, table, write } from "./dom.js";
import { count, duration, moment, plural, size, span, whoOf } from "./format.js";
import { askedFor, resultOf } from "./requests.js";
import { said, t } from "./texts.js";
import { wires } from "./wires.js";

/** Why a message to an MCP server that succeeded may have failed at its tool. */
const UNREAD = t("gatepass does not read the results of tools. An error that the server reports in a reply with status 200, as a tool or in JSON-RPC, is not counted. A capture shows the reply.");

const AGAIN_MS = 1000;

export async function story(page) {
  const show = async () => {
    const { stories } = await page.call("GET", `requests/${encodeURIComponent(page.parameter)}`);
    const chosen = Math.min(Number(page.filters.nth ?? 1), stories.length) - 1;
    const data = stories[chosen];
    if (!data) {
      page.main.replaceChildren(back(), el("h1", {}, t("Request")), el("p", {}, t("No request with the id {id} is in memory. It may be of another replica, or so old that newer ones took its place.", { id: page.parameter })));
      return;
    }
    const { activeElement } = document;
    const focused = page.main.contains(activeElement) ? activeElement.id : "";
    page.title(askedFor(data) ? `${askedFor(data)} · ${data.status ?? t("running")}` : t("Request"));
    page.main.replaceChildren(...parts(page, data));
    if (stories.length > 1) page.main.querySelector("#back").after(others(stories, chosen, page.parameter));
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
    if (data.state === "running") {
      const timer = setTimeout(() => show().catch(page.fail), AGAIN_MS);
      page.signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
    }
  };
  await show();
}

function parts(page, data) {
  return [
    back(),
    heading(page, data),
    way(page, data),
    data.error ? fault(page, data.error) : data.mcp_method && data.status === 200 && el("p.muted.small", {}, UNREAD),
    section(t("Where the time went"), timeline(data)),
    ...data.attempts.filter(({ arrivals }) => arrivals?.reads).map((attempt) => section(data.attempts.length > 1 ? t("Arrival of the stream, attempt {n}", { n: attempt.number }) : t("Arrival of the stream"), arrivalsText(attempt.arrivals, attempt.began_s, isRunning(data, attempt) ? endOf(data, attempt) : null))),
    section(t("What gatepass changed"), changes(data)),
    section(t("Attempts"), attempts(data)),
    bodies(page, data),
    section(t("Facts"), facts(data)),
  ].filter(Boolean);
}

function back() {
  return el("p.back", {}, el("a", { href: "#/requests", id: "back" }, t("Requests")));
}

/** Links to the other requests with the same id. */
function others(stories, chosen, id) {
  const link = ({ arrived_at: at }, i) => el("a", { href: `#/requests/${encodeURIComponent(id)}${query({ nth: i + 1 })}`, "aria-current": i === chosen && "true" }, moment(at));
  return el("span.muted", {}, t(" · {n} requests have this id: ", { n: count(stories.length) }), stories.flatMap((story, i) => [i > 0 && t(", "), link(story, i)]));
}

function section(title, ...content) {
  return el("section", {}, el("h2", {}, title), ...content);
}

function heading(page, data) {
  return el("div.heading", {},
    el("div", {},
      el("h1", {}, el("span.muted", {}, data.method, " "), data.path),
      el("p", {}, ...resultOf({ ...data, code: data.error?.code, hop: data.error?.hop }), "  ",
        el("span.muted", {}, [
          data.caller && t("by {name}", { name: whoOf(data) }), askedFor(data), data.stream ? t("streamed") : t("whole"),
          data.state === "running" ? t("for {s}", { s: duration(elapsedOf(data)) }) : duration(elapsedOf(data)), moment(data.arrived_at),
        ].filter(Boolean).join(" · ")))),
    el("div.actions", {},
      Number(page.filters.nth ?? 1) === 1 && copyButton(t("Copy as curl"), () => curl(page), page.say),
      copyButton(t("Copy the id"), () => data.id, page.say)));
}

/** The curl command of the newest request with this id. The page's own URL shows the prefix that a proxy removes. */
async function curl(page) {
  const found = await page.call("GET", `curl/${encodeURIComponent(page.parameter)}${query({ page: location.origin + location.pathname })}`);
  return found.curl;
}

/** How long the request took, or has run until now. */
function elapsedOf({ timings, duration_s: elapsed }) {
  return timings.duration_s ?? elapsed ?? null;
}

function isRunning(data, { outcome }) {
  return data.state === "running" && !outcome;
}

/** When the attempt ended, in seconds since the request arrived: now, if it runs. null if unknown. */
function endOf(data, attempt) {
  if (attempt.duration_s !== null) return (attempt.began_s ?? 0) + attempt.duration_s;
  return isRunning(data, attempt) ? elapsedOf(data) : null;
}

const MOST_PARTS = 20;
const GOOD = ["complete", "client_gone", "drained", null];
const AGAIN = {
  learned_rule: [t("rejected, sent again with a rule"), t("with a learned rule")],
  new_token: [t("token rejected, sent again with a new one"), t("with a new token")],
  new_connection: [t("connection closed, sent again"), t("on a new connection")],
  next_target: [t("failed, sent to the next target"), t("next target")],
  retry: [t("failed, sent again"), t("again")],
};
/** What each cause says of the attempt before it, and of itself. */

/** Whether the attempt failed at its upstream. One that gatepass repeated there is a step on the way. */
function hasFailed(data, i) {
  return !GOOD.includes(data.attempts[i].outcome) && ["next_target", "retry", undefined].includes(data.attempts[i + 1]?.cause);
}

/** The way through gatepass, a line for each attempt, red at the hop that failed. */
function way(page, data) {
  const failed = data.error?.hop ?? null;
  const card = (title, kind, hop, lines, isBad = hop === failed, said = isBad && t("failed here")) => el(isBad ? "article.card.bad" : "article.card", { "data-hop": hop },
    el("h3", {}, title, kind && el("span.kind", {}, ` ${kind}`)),
    lines.filter(Boolean).map((line) => el("p.small.muted", {}, line)),
    said && el(isBad ? "p.small.failed" : "p.small", {}, said));
  const client = card(t("Client"), "", "client", [whoOf(data) || (data.error?.code === "no_caller_row" ? data.error.code : t("no valid key")), data.user_agent]);
  const gate = card("gatepass", "", "gatepass", [data.operation, data.timings.added_s !== null && t("added {s}", { s: duration(data.timings.added_s) })]);
  gate.classList.add("own");
  const last = data.attempts.length - 1;
  const links = [{ key: "client", from: client, to: gate, isBad: failed === "client" }];
  const branches = data.attempts.map((attempt, i) => {
    const { token, upstream } = attempt;
    const name = token?.credential;
    const upstreamFailed = i === last ? failed === `upstream:${upstream}` : hasFailed(data, i);
    const again = data.attempts[i + 1]?.cause;
    const credential = name && card(name, t("token"), `credential:${name}`, [
      ...lifeOf(attempt, i === last && failed === `credential:${name}`),
      token.wait_s + token.renewal_s > 0.0005 && t("waited {s}", { s: duration(token.wait_s + token.renewal_s) }),
    ], i === last && failed === `credential:${name}`);
    // The credential's own issuer receives the token of another one, which has none.
    const subject = credential && i === last && attempt.code === "token_unavailable" && failed?.startsWith("credential:") && failed !== `credential:${name}`
      && card(failed.slice(11), t("token"), failed, [t("no token for the next credential")]);
    const target = card(upstream, attempt.number > 1 ? t("upstream, attempt {n}", { n: attempt.number }) : t("upstream"), `upstream:${upstream}`, [
      attempt.upstream_model, ...attempt.reached === false ? [] : [[attempt.status, attempt.code ?? t((attempt.outcome ?? "").replaceAll("_", " "))].filter(Boolean).join(" "), duration(attempt.duration_s ?? (isRunning(data, attempt) ? endOf(data, attempt) - attempt.began_s : null))],
    ], upstreamFailed, attempt.reached === false ? t("not reached") : again ? AGAIN[again]?.[0] ?? again : upstreamFailed && t("failed here"));
    if (subject) links.push({ key: "subject", from: gate, to: subject, isBad: true });
    if (credential) links.push({ key: `gate ${i}`, from: subject || gate, to: credential, isBad: i === last && failed === `credential:${name}` });
    if (attempt.reached !== false) links.push({ key: `target ${i}`, from: credential || gate, to: target, isBad: upstreamFailed });
    return el("li.branch", {}, subject ? el("div.chain", {}, subject, credential) : credential || el("span.none"), el("ul.upstreams", {}, el("li", {}, target)));
  });
  // The hop may have no attempt: no token could be fetched, so nothing was sent.
  if (failed?.startsWith("credential:") && !links.some(({ to }) => to.dataset.hop === failed)) {
    const credential = card(failed.slice(11), t("token"), failed, [t("no token")]);
    links.push({ key: "no token", from: gate, to: credential, isBad: true });
    branches.push(el("li.branch", {}, credential));
  }
  const node = el("div.map.way", { role: "group", "aria-label": t("The way of this request") },
    el("div.stage", {}, client), el("div.stage", {}, gate), el("ul.branches", {}, branches));
  wires(node, page.signal)(links);
  return el("section", {}, el("h2.unseen", {}, t("The way of this request")), node);
}

/** The models that exist, if the upstream does not know the name of the client. */
function existing(page, { case: special }) {
  const place = el("div", { hidden: true });
  if (!["unknown_model", "about_model"].includes(special)) return place;
  page.call("GET", "models").then(({ listed }) => {
    place.hidden = false;
    write(place, t("Correct the name of the model in the client, such as RAGFlow. The model list has: {names}.", { names: listed.slice(0, MOST_PARTS).join(t(", ")) || "–" }));
  }).catch(() => {});
  return place;
}

/** The error, with what to do. */
function fault(page, error) {
  const { code, kind, hop, cause, action: advice, test, retry_after_s: wait = null } = error;
  return el("section.problem", {},
    el("h2", {}, t("{code} at {hop}", { code, hop: hop ?? t("an unknown hop") })),
    happened(error, cause, kind),
    existing(page, error),
    wait !== null && el("p", {}, t("It asks the client to wait {s}.", { s: `${Math.ceil(wait)} s` })),
    advice && advised(said(error, "action")),
    test && !advice.includes(test) && el("p", {}, t("Test the hop: "), el("code", {}, test)),
    codeLinks(code, kind, hop));
}

function lifeOf({ outcome, token: { age_s: age, left_s: left } }, hasFailed) {
  const rest = outcome === "token_rejected" ? [t("rejected"), hasFailed && t("no new token")] : [left !== null && t("{s} left", { s: span(left) })];
  return [age !== null && t("{s} old", { s: span(age) }), ...rest].filter(Boolean);
}

/** The parts of the time as bars on one axis. Where one began is known for attempts; the rest is in order. */
function timeline(data) {
  const { timings } = data;
  const bars = [];
  const add = (name, from, length, mark = "") => length !== null && length !== undefined && from !== null && bars.push({ name, from, length, mark });
  add(t("request body"), 0, timings.body_s);
  for (const [i, attempt] of data.attempts.entries()) {
    const nth = data.attempts.length > 1 ? t("attempt {n}: ", { n: attempt.number }) : "";
    const bad = hasFailed(data, i) ? "bad" : "";
    const end = endOf(data, attempt);
    const wait = attempt.token?.wait_s ?? 0;
    let at = attempt.began_s ?? 0;
    if (attempt.queue_wait_s) add(nth + t("wait for a place at the upstream"), at, attempt.queue_wait_s);
    at += attempt.queue_wait_s ?? 0;
    if (wait) add(nth + t("wait for a token"), at, wait);
    at += wait;
    if (attempt.pool_wait_s) {
      add(nth + t("wait for a connection"), at, attempt.pool_wait_s);
      at += attempt.pool_wait_s;
    }
    add(nth + t("connect"), at, attempt.connect_s);
    at += attempt.connect_s ?? 0;
    if (attempt.head_s !== null) {
      const head = Math.max(at, (attempt.began_s ?? 0) + attempt.head_s); // both are rounded
      if (head > at) add(nth + t("until the reply begins"), at, head - at);
      if (end !== null) add(nth + (isRunning(data, attempt) ? t("reply until now") : t("reply")), head, Math.max(0, end - head), `main ${bad}`);
    } else if (attempt.parts?.length) {
      for (const [k, { began_s: from, duration_s: length, outcome }] of attempt.parts.slice(0, MOST_PARTS).entries())
        add(nth + t("part {n}", { n: k + 1 }), from, length, GOOD.includes(outcome) ? "main" : "bad");
    } else if (end !== null) {
      if (end - at > 0.0005) add(nth + (isRunning(data, attempt) ? t("no reply yet") : t("no reply")), at, end - at, bad);
      else if (bars.length) bars.at(-1).mark = bad;
    }
    if (attempt.token?.renewal_s) add(nth + t("wait for a new token"), end, attempt.token.renewal_s);
  }
  const whole = elapsedOf(data) ?? Math.max(0.001, ...bars.map(({ from, length }) => from + length));
  const first = timings.first_byte_s;
  const rows = bars.map(({ name, from, length, mark }) => el("li", {},
    el("span.name", {}, name),
    svg("svg", { height: 14, "aria-hidden": "true" },
      svg("rect.track", { y: 6.5, width: "100%", height: 1 }),
      svg("rect", { class: `span ${mark}`, x: part(from / whole), width: part(Math.max(0.004, length / whole)), y: 2, height: 10, rx: 2 }),
      first !== null && svg("line.first-byte", { x1: part(first / whole), x2: part(first / whole), y1: 0, y2: 14 })),
    el("b", {}, duration(length))));
  const sums = [
    [t("gatepass added"), timings.added_s], [t("upstream"), timings.upstream_s], [t("first byte of the answer after"), first], [data.state === "running" ? t("until now") : t("in all"), elapsedOf(data)],
  ].filter(([, value]) => value !== null && value !== undefined);
  return [
    rows.length ? el("ol.timeline", {}, rows) : null,
    el("p.muted.small", {}, sums.map(([name, value]) => `${name} ${duration(value)}`).join(" · ")),
  ];
}

function part(value) {
  return `${(100 * Math.min(1, Math.max(0, value))).toFixed(2)}%`;
}

/** The rules that changed the request. */
function changes(data) {
  const adapted = [...new Set(data.attempts.flatMap(({ adapted }) => adapted ?? []))];
  return adapted.length ? el("p", {}, el("code", {}, adapted.join(", "))) : el("p.muted", {}, t("No rule changed the request."));
}

function attempts(data) {
  if (!data.attempts.length) return el("p.muted", {}, t("None: nothing was sent to an upstream."));
  const heads = [t("Attempt"), t("Target"), t("Outcome"), t("Token"), t("Connect"), t("Reply after"), t("Duration"), t("Upstream's id")];
  const rows = data.attempts.flatMap((attempt) => [
    { name: `${attempt.number}`, attempt },
    ...failedFirst(attempt.parts).slice(0, MOST_PARTS).map((part) => ({ name: t("{n}, part", { n: attempt.number }), attempt: part })),
  ]);
  const left = data.attempts.reduce((sum, { parts }) => sum + Math.max(0, (parts?.length ?? 0) - MOST_PARTS), 0);
  return [table(t("Attempts"), heads, rows.map(({ name, attempt }) => [
    `${name}${attempt.cause ? `${t(", ")}${AGAIN[attempt.cause]?.[1] ?? attempt.cause}` : ""}`,
    `${attempt.upstream} ${attempt.upstream_model ?? ""}`,
    [t((attempt.outcome ?? "running").replaceAll("_", " ")), attempt.status, attempt.code !== String(attempt.status) && attempt.code, !data.error?.message.includes(attempt.reason) && attempt.reason, attempt.tried?.length ? t("learned {rules}", { rules: attempt.tried.join(", ") }) : ""].filter(Boolean).join(" · "),
    attempt.token ? [attempt.token.credential, ...lifeOf(attempt)].join(t(", ")) : "–",
    attempt.connect_s !== null ? duration(attempt.connect_s) : attempt.reached === false ? "–" : t("pooled"),
    duration(attempt.head_s),
    isRunning(data, attempt) ? t("{s} until now", { s: duration(endOf(data, attempt) - attempt.began_s) }) : duration(attempt.duration_s),
    attempt.upstream_request_id || "–",
  ])), left > 0 && el("p.muted", {}, t("And {changes} more.", { changes: plural(left, "part") }))];
}

function failedFirst(parts) {
  const isBad = ({ outcome }) => !GOOD.includes(outcome);
  return [...parts ?? []].sort((one, other) => isBad(other) - isBad(one));
}

/** The bodies of a captured request, for admins. */
function bodies(page, data) {
  if (!data.bodies) return data.state === "ended" && !data.captured && section(t("Bodies"), uncaptured(page, data));
  const names = { request: t("from the client"), sent: t("to the upstream"), reply: t("reply") };
  const title = ({ name }, i) => {
    const same = data.bodies.filter((body) => body.name === name);
    return same.length > 1 ? `${names[name]} ${same.indexOf(data.bodies[i]) + 1}` : names[name];
  };
  return section(t("Bodies"),
    data.bodies.map((body, i) => body.text && el("details.body", {},
      el("summary", {}, title(body, i), " ", el("span.muted", {}, size(body.size_bytes))),
      el("pre", { tabindex: 0 }, pretty(body.text)))),
    data.bodies.some(({ cut }) => cut) && el("p.muted.small", {}, t("A body was too long to be captured whole.")));
}

/** Says that there are no bodies, and starts the capture for the next request of this kind. */
function uncaptured(page, { model, caller }) {
  const what = caller && model ? t("requests of {caller} to {model}", { caller, model }) : caller ? t("requests of {caller}", { caller }) : model ? t("requests to {model}", { model }) : t("all requests");
  const state = el("p", { role: "status" });
  const button = el("button.quiet", {
    type: "button",
    onclick: async () => {
      button.disabled = true;
      try {
        const { until } = await page.call("POST", "capture", { model: model || null, caller: caller || null, for_s: 600 });
        write(state, t("The bodies of {what} are captured until {until}. Send the request again.", { what, until: moment(until) }));
      } catch (error) {
        button.disabled = false;
        if (!page.signal.aborted) write(state, t("Not started: {reason}", { reason: error.message }));
      }
    },
  }, t("Capture the next requests"));
  return [
    el("p.muted", {}, page.isAdmin ? t("Not captured. The button captures {what} for 10 minutes. It ends a capture that runs.", { what }) : t("Not captured. An admin can capture the next requests.")),
    page.isAdmin && el("p.start", {}, button), state,
  ];
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function facts(data) {
  const usage = Object.entries(data.usage ?? {}).filter(([, value]) => typeof value === "number");
  const all = [
    [t("id"), data.id],
    [t("upstream's id"), data.upstream_request_id],
    [t("machine"), data.replica],
    [t("client"), [data.peer, data.user_agent].filter(Boolean).join(", ")],
    [t("closed first by"), data.stream && data.events > 0 && data.outcome !== "ok" && data.closed_by ? t(data.closed_by) : null],
    [t("received from the client"), size(data.bytes_in)],
    [t("sent to the client"), `${size(data.bytes_out)}${data.events ? `${t(", ")}${plural(data.events, "event")}` : ""}`],
    [t("tokens"), usage.map(([name, value]) => `${t(name.replaceAll("_", " "))} ${count(value)}`).join(t(", "))],
    [t("answer"), data.empty_answer ? t("empty") : null],
  ].filter(([, value]) => value);
  return el("dl.facts", {}, all.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}
