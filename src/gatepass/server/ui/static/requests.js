// The live list of requests, the newest first. Equal failures in a row are one row.

import { query } from "./api.js";
import { capture } from "./capture.js";
import { codeNote } from "./error_code.js";
import { el, keyed, row, set, table, write } from "./dom.js";
import { count, duration, plural, time, whoOf, zone } from "./format.js";
import { t } from "./texts.js";

const ROWS = 200;
const GROUP_FROM = 3;
const TYPING_MS = 300;
const HEADS = [t("Arrived ({zone})", { zone: zone() }), t("Result"), t("Caller"), t("Request"), t("Upstream"), t("First byte"), t("Duration"), t("Tokens"), t("Changed")];
const OUTCOMES = ["ok", "error", "client_gone", "unread"];
const EXACT = ["caller", "model", "mcp_tool", "upstream", "operation", "code", "kind", "hop"];

export async function requests(page) {
  const names = ["text", "outcome", ...EXACT];
  const filters = Object.fromEntries(names.map((name) => [name, page.filters[name] ?? ""]));
  const opened = new Set();
  let latest = { requests: [], running: [] };

  const list = table(t("Requests, the newest first"), HEADS, []);
  const body = list.querySelector("tbody");
  const empty = el("p.muted.empty", { hidden: true });
  const tally = el("p.muted.small", { id: "tally" });
  const frozen = el("button.quiet", { type: "button", "aria-pressed": "false", onclick: () => freeze(frozen.getAttribute("aria-pressed") !== "true") }, t("Pause"));
  page.main.append(
    el("h1", {}, t("Requests")),
    form(filters, (text) => search(text)),
    el("div.above", {}, tally, frozen),
    el("div.wide", {}, list), empty);
  if (page.isAdmin) {
    const place = el("section", { id: "capture" });
    page.main.querySelector(".above").before(place);
    capture(page, place, filters).catch(page.fail);
  }

  const freeze = (isFrozen) => {
    set(frozen, { "aria-pressed": String(isFrozen) });
    write(frozen, isFrozen ? t("Continue") : t("Pause"));
    if (!isFrozen) show();
  };
  const show = () => {
    const { running } = latest;
    const known = [...running, ...latest.requests].sort((a, b) => (a.arrived_at < b.arrived_at ? 1 : -1)).slice(0, ROWS);
    keyed(body, grouped(known, opened, filters.outcome === "error"), ({ key }) => key, makeRow, (node, shown) => (shown.group ? showGroup(node, shown, toggle) : showRow(node, shown.request)));
    list.hidden = !known.length;
    empty.hidden = Boolean(known.length);
    write(empty, filters.outcome && !OUTCOMES.includes(filters.outcome) ? t("There is no outcome {name}: it is ok, error, client_gone or unread.", { name: filters.outcome }) : Object.values(filters).some(Boolean) ? t("No request in memory matches the filters.") : t("No request yet. Send one, and it appears here."));
    write(tally, [plural(known.length, "request"), running.length && t("{n} running", { n: count(running.length) }), known.length === ROWS && t("older ones are not shown")].filter(Boolean).join(t(", ")));
    for (const link of body.querySelectorAll("a")) set(link, { tabindex: link === current(body) ? 0 : -1 });
  };
  const toggle = (key) => {
    if (!opened.delete(key)) opened.add(key);
    show();
  };
  body.addEventListener("keydown", (event) => move(event, body));
  body.addEventListener("click", (event) => {
    if (!event.target.closest("a, button") && !String(getSelection())) event.target.closest("tr")?.querySelector("a, button").click();
  });
  body.addEventListener("focusin", (event) => {
    for (const link of body.querySelectorAll("a")) set(link, { tabindex: link === event.target ? 0 : -1 });
  });
  const asked = { limit: ROWS, ...filters };
  const ask = page.listen({
    paths: () => [`requests${query(asked)}`],
    on: (data) => {
      latest = data;
      if (frozen.getAttribute("aria-pressed") !== "true") show();
    },
  });
  const search = (text) => {
    if (page.signal.aborted || filters.text === text) return;
    filters.text = asked.text = text;
    history.replaceState(null, "", `#/requests${query(filters)}`); // the view and the focus stay
    freeze(false);
    ask();
  };
}

/** Clients may send an id of their own, so an id alone names no request. */
function keyOf({ id, ended }) {
  return `${id} ${ended ?? "running"}`;
}

/** The rows of the list: `{key, request}`, or `{key, group, isOpen}` for equal failures in a row, followed by them if it is open.
 * Of failures `alone` all equal ones are a row, the most frequent first. */
function grouped(known, opened, alone) {
  const groups = [];
  for (const request of known) {
    const failure = failureOf(request, alone);
    const group = failure && (alone ? groups : groups.slice(-1)).find((one) => one.failure === failure);
    if (group) group.all.push(request);
    else groups.push({ failure, all: [request] });
  }
  if (alone) groups.sort((a, b) => b.all.length - a.all.length);
  return groups.flatMap(({ failure, all }) => {
    const rows = all.map((request) => ({ key: keyOf(request), request }));
    if (all.length < (alone ? 2 : GROUP_FROM)) return rows;
    const key = alone ? failure : `${failure} ${keyOf(all.at(-1))}`; // of the oldest: newer ones join the group
    return [{ key, group: all, isOpen: opened.has(key) }, ...(opened.has(key) ? rows : [])];
  });
}

function failureOf(request, alone) {
  const { state, outcome, code, kind, status, caller, upstream, path } = request;
  return state !== "running" && outcome === "error" ? [code, kind, whatOf({ ...request, stream: false }), upstream, ...(alone ? [] : [status, caller, path])].join(" ") : null;
}

/** A text, searched while it is typed, and a chip for failures and each other filter. A change goes into the hash: a filtered list is a link. */
function form(filters, search) {
  const go = (changes) => { location.hash = `#/requests${query({ ...filters, text: field.value, ...changes })}`; };
  const isFailed = filters.outcome === "error";
  const exact = [...isFailed ? [] : ["outcome"], ...EXACT].filter((name) => filters[name]);
  const clear = el("a.button.quiet", { href: "#/requests", hidden: !Object.values(filters).some(Boolean) }, t("Clear"));
  const now = () => {
    search(field.value);
    clear.hidden = !Object.values(filters).some(Boolean);
  };
  let timer = null;
  const typed = () => {
    clearTimeout(timer);
    timer = setTimeout(now, TYPING_MS);
  };
  const submit = (event) => {
    event.preventDefault();
    now();
  };
  const field = el("input", { type: "search", name: "text", value: filters.text, placeholder: t("id, caller, model, code, …"), autocomplete: "off", oninput: typed });
  return el("form.filters", { role: "search", "aria-label": t("Filters"), onsubmit: submit },
    el("label", {}, el("span", {}, t("search")), field),
    el("div.chips", {},
      el("button.quiet", { type: "button", "aria-pressed": String(isFailed), onclick: () => go({ outcome: isFailed ? "" : "error" }) }, t("failed")),
      exact.map((name) => el("button.quiet", { type: "button", "aria-pressed": "true", "aria-label": t("Remove the filter {name}", { name: `${t(name)} ${filters[name]}` }), onclick: () => go({ [name]: "" }) }, `${t(name)}${t(": ")}${filters[name]} ×`)),
      clear));
}

function makeRow({ request }) {
  return set(row(HEADS, HEADS.map(() => "")), { "data-id": request?.id ?? null });
}

function showGroup(node, { key, group, isOpen }, toggle) {
  const [newest, oldest] = [group[0], group.at(-1)];
  const callers = new Set(group.map(whoOf));
  set(node, { class: "failed-row group" });
  const [at, result, ...rest] = node.cells;
  if (!at.firstElementChild) at.replaceChildren(el("button.quiet", { type: "button", onclick: () => toggle(key) }));
  set(at.firstChild, { "aria-expanded": String(isOpen) });
  write(at.firstChild, [...new Set([time(oldest.arrived_at), time(newest.arrived_at)])].join("–"));
  const shown = `${group.length} ${newest.status} ${newest.code}`;
  if (result.dataset.shown !== shown) {
    result.dataset.shown = shown;
    result.replaceChildren(el("b", {}, `${count(group.length)} × `), ...resultOf(newest));
  }
  [callers.size > 1 ? plural(callers.size, "caller") : whoOf(newest) || "–", whatOf({ ...newest, stream: false }), newest.upstream || "–", "", "", "", ""].forEach((text, i) => write(rest[i], text));
  set(rest[0], { title: callers.size > 1 ? [...callers].join(t(", ")) : null });
}

function showRow(node, request) {
  const isRunning = request.state === "running";
  const failed = !isRunning && request.outcome !== "ok";
  set(node, { class: isRunning ? "running" : failed ? "failed-row" : null });
  const [at, result, ...rest] = node.cells;
  if (!at.firstElementChild) at.replaceChildren(el("a", { href: `#/requests/${encodeURIComponent(request.id)}` }));
  write(at.firstChild, time(request.arrived_at));
  const shown = `${request.state} ${request.status} ${request.code} ${request.outcome}`;
  if (result.dataset.shown !== shown) {
    result.dataset.shown = shown;
    result.replaceChildren(...resultOf(request));
  }
  const tries = request.attempts > 1 ? ` ×${request.attempts}` : "";
  const hasTokens = request.tokens_in !== null || request.tokens_out !== null;
  const texts = [
    whoOf(request) || "–",
    whatOf(request),
    (request.upstream || "–") + tries,
    duration(request.first_byte_s),
    duration(request.duration_s),
    hasTokens ? `${count(request.tokens_in)} → ${count(request.tokens_out)}` : "–",
    request.adapted?.map((rule) => (rule === "include_usage" ? "+usage" : rule)).join(", ") ?? "", // else it breaks inside the word
  ];
  rest.forEach((cell, i) => write(cell, texts[i]));
  set(rest[2], { title: tries ? plural(request.attempts, "attempt") : null });
}

/** What a request asked for: its model, its operation or unknown path, and whether it asked for a stream. */
function whatOf(request) {
  const asked = askedFor(request);
  const isMessage = request.operation === "mcp_stream" || (asked && request.mcp_method);
  return [...new Set([asked, isMessage ? "" : request.operation === "none" ? request.path : request.operation, request.stream && t("stream")])].filter(Boolean).join(" · ") || "–";
}

/** The model of a request, the method of a message to an MCP server with the tool that it calls, or its stream of events. */
export function askedFor({ model, operation, mcp_method: method, mcp_tool: tool }) {
  return model || [method, tool].filter(Boolean).join(" ") || (operation === "mcp_stream" ? t("stream") : "");
}

/** What became of a request: its status, and the code of its error. */
export function resultOf({ state, status, code, outcome, hop }) {
  if (state === "running") return [el("span.chip.live", {}, t("running"))];
  const left = { client_gone: t("client gone"), unread: t("client did not read") }[outcome];
  if (left) return [el("span.chip", {}, left)];
  const failed = outcome !== "ok";
  return [el(failed ? "span.chip.bad" : "span.chip", {}, status ?? "–"), failed && code && code !== String(status) ? el("span.code", { title: [codeNote(code), hop].filter(Boolean).join(t(", ")) || null }, ` ${code}`) : ""];
}

function current(body) {
  return body.querySelector("a:focus") ?? body.querySelector('a[tabindex="0"]') ?? body.querySelector("a");
}

/** Up and down move between the requests, Enter opens one as any link. */
function move(event, body) {
  const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -ROWS, End: ROWS };
  const step = steps[event.key];
  if (step === undefined) return;
  event.preventDefault();
  const links = [...body.querySelectorAll("a")];
  const at = links.indexOf(document.activeElement);
  links[Math.min(links.length - 1, Math.max(0, at + step))]?.focus();
}
