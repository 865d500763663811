// The live list of requests, with filters.

import { query } from "./api.js";
import { capture } from "./capture.js";
import { el, keyed, row, set, table, write } from "./dom.js";
import { count, duration, plural, size, time, zone } from "./format.js";

const ROWS = 200;
const HEADS = [`Time (${zone()})`, "Result", "Caller", "Model", "Upstream", "First byte", "Duration", "Size", "Changed"];
const EXACT = ["caller", "model", "upstream", "code"];
const OUTCOMES = [["", "any"], ["ok", "ok"], ["error", "error"], ["client_gone", "client gone"]];

export async function requests(page) {
  const filters = Object.fromEntries(["text", ...EXACT, "outcome"].map((name) => [name, page.filters[name] ?? ""]));
  const known = new Map();
  let running = [];
  let received = 0;

  const list = table("Requests, the newest first", HEADS, []);
  const body = list.querySelector("tbody");
  const empty = el("p.muted.empty", { hidden: true });
  const tally = el("p.muted.small", { id: "tally" });
  const frozen = el("button.quiet", { type: "button", "aria-pressed": "false", onclick: () => freeze(frozen.getAttribute("aria-pressed") !== "true") }, "Pause");
  const names = Object.fromEntries(EXACT.map((name) => [name, el("datalist", { id: `${name}s` })]));
  page.main.append(
    el("h1", {}, "Requests"),
    form(filters, names),
    el("div.above", {}, tally, frozen),
    el("div.wide", {}, list), empty);
  if (page.isAdmin) {
    const place = el("section", { id: "capture" });
    page.main.querySelector(".above").before(place);
    capture(page, place, filters).catch(page.fail);
  }

  const freeze = (isFrozen) => {
    set(frozen, { "aria-pressed": String(isFrozen) });
    write(frozen, isFrozen ? "Continue" : "Pause");
    if (!isFrozen) show();
  };
  const take = (data) => {
    for (const request of data.requests) {
      if (!known.has(keyOf(request))) received += 1;
      known.set(keyOf(request), request);
    }
    if (known.size > ROWS) {
      const newest = [...known.values()].sort(byEnd).slice(0, ROWS);
      known.clear();
      for (const request of newest) known.set(keyOf(request), request);
    }
    running = data.running;
    if (frozen.getAttribute("aria-pressed") !== "true") show();
  };
  const show = () => {
    const shown = [...running, ...[...known.values()].sort(byEnd)].slice(0, ROWS);
    keyed(body, shown, keyOf, makeRow, showRow);
    const isFiltered = Object.values(filters).some(Boolean);
    list.hidden = !shown.length;
    empty.hidden = Boolean(shown.length);
    write(empty, isFiltered ? "No request in memory matches the filters." : "No request yet. Send one, and it appears here.");
    write(tally, `${plural(shown.length, "request")}${running.length ? `, ${count(running.length)} running` : ""}${shown.length === ROWS ? ` (the newest of ${count(received)})` : ""}`);
    for (const name of EXACT) keyed(names[name], [...new Set(shown.map((request) => request[name]).filter(Boolean))].sort().slice(0, 50), (value) => value, (value) => el("option", { value }), () => null);
    for (const link of body.querySelectorAll("a")) set(link, { tabindex: link === current(body) ? 0 : -1 });
  };
  body.addEventListener("keydown", (event) => move(event, body));
  body.addEventListener("click", (event) => {
    if (!event.target.closest("a") && !String(getSelection())) event.target.closest("tr")?.querySelector("a").click();
  });
  body.addEventListener("focusin", (event) => {
    for (const link of body.querySelectorAll("a")) set(link, { tabindex: link === event.target ? 0 : -1 });
  });
  page.listen({ view: "requests", filters: { limit: ROWS, ...filters }, on: take });
}

/** Clients may send an id of their own, so an id alone names no request. */
function keyOf({ worker, id, ended }) {
  return `${worker} ${id} ${ended ?? "running"}`;
}

function byEnd(a, b) {
  return b.ended - a.ended;
}

/** The filters. A change goes into the hash, so that a filtered list is a link. */
function form(filters, names) {
  const apply = () => {
    const values = Object.fromEntries(new FormData(node));
    location.hash = `#/requests${query(values)}`;
  };
  const field = (name, control) => el("label", {}, el("span", {}, name), control);
  const node = el("form.filters", { role: "search", "aria-label": "Filters", onsubmit: (event) => { event.preventDefault(); apply(); }, onchange: apply },
    field("text", el("input", { type: "search", name: "text", value: filters.text, placeholder: "id, path, …", autocomplete: "off" })),
    EXACT.map((name) => field(name, el("input", { name, value: filters[name], list: `${name}s`, autocomplete: "off" }))),
    field("outcome", el("select", { name: "outcome" }, OUTCOMES.map(([value, text]) => el("option", { value, selected: filters.outcome === value }, text)))),
    Object.values(names),
    Object.values(filters).some(Boolean) && el("a.button.quiet", { href: "#/requests" }, "Clear"));
  return node;
}

function makeRow({ id }) {
  return set(row(HEADS, HEADS.map(() => "")), { "data-id": id });
}

function showRow(node, request) {
  const isRunning = request.state === "running";
  const failed = !isRunning && request.outcome !== "ok";
  set(node, { class: isRunning ? "running" : failed ? "failed-row" : null });
  const [at, result, ...rest] = node.cells;
  if (!at.firstElementChild) at.replaceChildren(el("a", { href: `#/requests/${encodeURIComponent(request.id)}` }));
  write(at.firstChild, time(request.arrived_at));
  if (result.dataset.shown !== `${request.state} ${request.status} ${request.code} ${request.outcome}`) {
    result.dataset.shown = `${request.state} ${request.status} ${request.code} ${request.outcome}`;
    result.replaceChildren(...resultOf(request));
  }
  const tries = request.attempts > 1 ? ` ×${request.attempts}` : "";
  const texts = [
    request.caller || "–",
    askedFor(request) || request.operation || "–",
    (request.upstream || "–") + tries,
    duration(request.first_byte_s),
    duration(request.duration_s),
    size(request.bytes_out),
    request.adapted?.join(", ") ?? "",
  ];
  rest.forEach((cell, i) => write(cell, texts[i]));
  set(rest[2], { title: tries ? plural(request.attempts, "attempt") : null });
}

/** The model of a request, or the method of a message to an MCP server with the tool that it calls. */
export function askedFor({ model, mcp_method: method, mcp_tool: tool }) {
  return model || [method, tool].filter(Boolean).join(" ");
}

/** What became of a request: its status, and the code of its error. */
export function resultOf({ state, status, code, outcome, hop }) {
  if (state === "running") return [el("span.chip.live", {}, "running")];
  if (outcome === "client_gone") return [el("span.chip", {}, "client gone")];
  const failed = outcome !== "ok";
  return [el(failed ? "span.chip.bad" : "span.chip", {}, status ?? "–"), failed && code ? el("span.code", { title: hop ?? null }, ` ${code}`) : ""];
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
