// What an error means, from gatepass's own documentation: by its kind, because an upstream may send any code.

import { query, requestsOf } from "./api.js";
import { el } from "./dom.js";
import { count, plural, share, since } from "./format.js";
import { language, said, t } from "./texts.js";

/** What a code is that is a number, which an upstream made, or a word of gatepass or an upstream. */
const NOTES = [
  [/^model_not_found$/, t("gatepass or the upstream does not know the model")], [/^context_length_exceeded$/, t("the prompt is too long")],
  [/^rate_limit_exceeded$/, t("the upstream limits the requests")], [/^insufficient_quota$/, t("the account at the upstream has no quota")],
  [/^429$/, t("HTTP status: too many requests")], [/^40[13]$/, t("HTTP status: access refused")], [/^404$/, t("HTTP status: not found")],
  [/^4\d\d$/, t("HTTP status: invalid request")], [/^5\d\d$/, t("HTTP status: the upstream failed")], [/^-?\d+$/, t("the upstream's own code")],
];
const MOST_CODES = 3;
/** The kinds of errors that an upstream describes itself. */
const UPSTREAMS = ["upstream_error", "upstream_auth"];
/** Of an error whose status depends on the message of MCP. */
const STATUSES = { mcp_not_allowed: t("200 with an error in JSON-RPC, 403 for a notification") };

export async function errorCode(page) {
  const shown = await page.call("GET", `errors/${encodeURIComponent(page.parameter)}`);
  const { code: kind, status, cases = [] } = shown;
  const { code = kind } = page.filters;
  page.title(code);
  page.main.append(...[
    el("p.back", {}, el("a", { href: "#/requests" }, t("Requests"))),
    el("h1", {}, el("code", {}, code)),
    codeNote(code) && el("p.muted", {}, codeNote(code)),
    el("p.muted", {}, t("Status {status}", { status: STATUSES[kind] ?? status ?? t("as the upstream's reply") })),
    el("div.prose", {}, said(shown, "text").replace(/\n- /, "\n\n- ").split(/\n{2,}/).map(paragraph)),
    el("p.advice", {}, inline(said(shown, "action"))),
    ...cases.map((one) => el("p.advice", {}, el("b", {}, inline(said(one, "sentence"))), " ", inline(said(one, "action")))),
    el("p", {}, el("a", { href: requestsOf({ code: page.filters.code, kind }) }, t("Requests with this error"))),
  ].filter(Boolean));
}

/** The meaning of a code of NOTES, "" for another one. */
export function codeNote(code) {
  return NOTES.find(([pattern]) => pattern.test(code))?.[1] ?? "";
}

const glosses = new Map();

/** Resolves to the meaning of a code in a few words: NOTES, or else the first sentence of the documentation of its kind. */
export async function codeGloss(page, code, kind) {
  if (codeNote(code)) return codeNote(code);
  if (!glosses.has(kind)) glosses.set(kind, said(await page.call("GET", `errors/${encodeURIComponent(kind)}`), "text").split(/\n|\.(?: |\n|$)|。/)[0].replaceAll("`", ""));
  return glosses.get(kind);
}

/** What happened: the message, in Chinese below the sentence of `error`, or above it if an upstream wrote the message. */
export function happened(error, message, kind) {
  const sentence = language === "zh" ? said(error, "sentence") : "";
  if (!sentence) return el("p", {}, inline(message));
  if (UPSTREAMS.includes(kind)) return [el("p", {}, inline(message)), el("p.muted", {}, inline(sentence))];
  return [el("p", {}, inline(sentence)), el("p.muted.small", {}, t("Original: "), inline(message))];
}

/** What to do about an error. */
export function advised(action) {
  return el("p.advice", {}, el("b", {}, t("Action: ")), inline(action));
}

/** The sum of rows of use. It fails since `failed_at`, if each request failed from then on. */
export function summed(rows) {
  const all = { requests: 0, errors: 0, tokens: 0, callers: {} };
  for (const row of rows) {
    for (const name of ["requests", "errors", "tokens"]) all[name] += row[name];
    for (const [name, number] of Object.entries(row.callers)) all.callers[name] = (all.callers[name] ?? 0) + number;
  }
  const alike = Object.values(Object.groupBy(rows.flatMap(({ codes }) => codes), ({ code, kind }) => `${kind} ${code}`));
  const codes = alike.map((same) => ({ ...same[0], count: same.reduce((total, one) => total + one.count, 0) }));
  const ok = Math.max(0, ...rows.map((row) => row.ok_at));
  return { ...all, codes, failed_at: rows.flatMap((row) => row.failed_at).filter((at) => at > ok).sort((a, b) => a - b)[0] };
}

/** The errors of `summed` as links to requests of `filters`: all, the most frequent codes, since when, and whose. */
export function errorLinks({ requests, errors, codes, callers, failed_at: at }, filters) {
  if (!errors) return "0";
  const link = (text, more) => el("a.failed", { href: requestsOf({ outcome: "error", ...filters, ...more }) }, text);
  const hit = Object.keys(callers).map((name) => name || t("no valid key"));
  const most = codes.filter(({ code }) => code).sort((a, b) => b.count - a.count).slice(0, MOST_CODES);
  return [link(t("{n} ({more})", { n: count(errors), more: share(errors, requests) })), " ", most.map(({ code, kind, count: number }) => el(most.length > 1 ? "div.code" : "span.code", {}, link(most.length > 1 ? `${count(number)} × ${code}` : code, { code, kind }))), el("div.muted.small", {}, [at && t("failing") + since(at), hit.length > MOST_CODES ? plural(hit.length, "caller") : hit.join(t(", "))].filter(Boolean).join(" · "))];
}

/** A paragraph or a list of the text. */
function paragraph(block) {
  const lines = block.replace(/\n +/g, " ").split("\n").filter((line) => line.trim());
  if (lines.length && lines.every((line) => /^[-*] /.test(line))) return el("ul", {}, lines.map((line) => el("li", {}, inline(line.slice(2)))));
  return el("p", {}, inline(block));
}

/** What the error means, and the other requests that failed with it at its hop. */
export function codeLinks(code, kind, hop) {
  const shown = codeNote(code) ? code : kind;
  const href = `#/errors/${encodeURIComponent(kind)}${query({ code: shown === kind ? "" : code })}`;
  return el("p", {}, el("a", { href }, t("What {code} means", { code: shown })), " · ", el("a", { href: requestsOf({ outcome: "error", code, kind, hop }) }, t("Requests with this error")));
}

/** The text with its `code` as code. */
export function inline(text) {
  return text.split(/`([^`]+)`/).map((piece, i) => (i % 2 ? el("code", {}, piece) : piece));
}
