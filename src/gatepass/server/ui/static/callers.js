// The callers with their keys, use and limits. Never a key.

import { el, svg, table } from "./dom.js";
import { count, moment, share, span } from "./format.js";
import { t } from "./texts.js";

const SOON_S = 14 * 86400;

export function callers(page) {
  const place = el("div");
  page.main.append(el("h1", {}, t("Callers")), place);
  page.listen({
    view: "callers",
    on: ({ callers: found }) => {
      const { activeElement } = document;
      const focused = place.contains(activeElement) ? activeElement.getAttribute("href") : null;
      place.replaceChildren(...(found.length ? [list(found), el("p.muted.small.since", {}, t("The numbers count since the start of gatepass."))] : [el("p.muted", {}, t("No key is configured. Clients on this machine need none."))]));
      if (focused) [...place.querySelectorAll("a")].find((link) => link.getAttribute("href") === focused)?.focus({ preventScroll: true });
    },
  });
}

function list(found) {
  const heads = [t("Caller"), t("Role"), t("In flight"), t("Requests"), t("Errors"), t("Tokens"), t("Last use"), t("May use"), t("Profile"), t("Keys")];
  const made = table(t("Callers"), heads, found.map((caller) => [
    el("a", { href: `#/requests?caller=${encodeURIComponent(caller.name)}` }, caller.name),
    t(caller.role),
    inFlight(caller),
    count(caller.requests),
    caller.errors ? el("a.failed", { href: `#/requests?outcome=error&caller=${encodeURIComponent(caller.name)}` }, t("{n} ({more})", { n: count(caller.errors), more: share(caller.errors, caller.requests) })) : "0",
    count(caller.tokens),
    caller.last_used ? moment(caller.last_used) : t("not since the start"),
    [mayUse(caller), caller.limits.length > 0 && el("ul", {}, caller.limits.map(limitLine))],
    caller.profile || "–",
    caller.keys.length ? el("ul", {}, caller.keys.map(keyLine)) : "–",
  ]));
  made.classList.add("callers");
  return made;
}

/** A limit of the caller or of its group, with what is left. */
function limitLine({ of, limit, most, left }) {
  const name = of.startsWith("group/") ? `${of}: ${limit}` : limit;
  return el("li", { class: left ? "" : "failed" }, el("code", {}, name), " ", t("{n} of {m} left", { n: count(left), m: count(most) }));
}

/** A key by its short id, with its end and last use. What ends soon is marked. */
function keyLine({ id, expires_at: end, last_used: used }) {
  const use = used ? t("last used {at}", { at: moment(used) }) : t("not used since the start");
  return el("li", {}, el("code", {}, id), " ", el(leftOf(end) < SOON_S ? "b.failed" : "span", {}, endOf(end)), t(", "), use);
}

const leftOf = (end) => end ? Date.parse(end) / 1000 - Date.now() / 1000 : Infinity;

/** When a key ends or has ended, as a text. */
export function endOf(end) {
  const left = leftOf(end);
  return !end ? t("never expires") : left <= 0 ? t("expired {at}", { at: moment(end) }) : left < SOON_S ? t("expires in {s}", { s: span(left).replaceAll(" ", "\u00a0") }) : t("expires {at}", { at: moment(end) });
}

function mayUse({ role, models, operations, mcp }) {
  if (role === "viewer") return t("none");
  const servers = Object.entries(mcp ?? {}).map(([name, tools]) =>
    tools ? t("{n} ({more})", { n: `mcp/${name}`, more: `${t("tools")} ${tools.join(t(", ")) || t("none")}` }) : `mcp/${name}`);
  return [models ? models.join(t(", ")) || t("no model") : t("all models"), operations?.join(t(", ")), servers.join(t(", "))].filter(Boolean).join(t("; "));
}

function inFlight({ in_flight: now, max_concurrent: most }) {
  if (!most) return count(now);
  return [
    t("{n} of {m}", { n: count(now), m: count(most) }),
    svg("svg.use", { width: 64, height: 4, "aria-hidden": "true" },
      svg("rect.track", { width: 64, height: 4, rx: 2 }),
      svg("rect", { class: "used", width: 64 * Math.min(1, now / most), height: 4, rx: 2 })),
  ];
}
