// What a code of an error means, from gatepass's own documentation.

import { el } from "./dom.js";

export async function errorCode(page) {
  const { code, status, text } = await page.call("GET", `errors/${encodeURIComponent(page.parameter)}`);
  page.title(code);
  page.main.append(
    el("p.back", {}, el("a", { href: "#/requests" }, "Requests")),
    el("h1", {}, el("code", {}, code)),
    status && el("p.muted", {}, `Status ${status}`),
    el("div.prose", {}, text.split(/\n{2,}/).map(paragraph)),
    el("p", {}, el("a", { href: `#/requests?code=${encodeURIComponent(code)}` }, "Requests with this error")));
}

/** A paragraph or a list of the text, with its `code` as code. */
function paragraph(block) {
  const lines = block.split("\n").filter((line) => line.trim());
  if (lines.length && lines.every((line) => /^[-*] /.test(line))) return el("ul", {}, lines.map((line) => el("li", {}, inline(line.slice(2)))));
  return el("p", {}, inline(block));
}

function inline(text) {
  return text.split(/`([^`]+)`/).map((piece, i) => (i % 2 ? el("code", {}, piece) : piece));
}
