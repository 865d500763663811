// The tables of the overview: the use by caller since the start, the limits with the least left, and the MCP servers.

import { requestsOf } from "./api.js";
import { copyButton, el, table } from "./dom.js";
import { healthLine, showHealth, worstFirst } from "./drawing.js";
import { count, moment, plural, share } from "./format.js";
import { t } from "./texts.js";


/** Returns `{nodes, show(overview)}`. */
export function useTables(page) {
  const [callers, limits, servers] = [el("section"), el("section"), el("section")];
  const show = (data) => {
    replace(callers, callersOf(data));
    replace(limits, limitsOf(data));
    replace(servers, serversOf(page, worstFirst(data).filter(({ dialect }) => dialect === "mcp")));
  };
  return { nodes: [callers, limits, servers], show };
}

/** Show `nodes` in `place`, and touch nothing if they are the same. The focus stays at the link with the same address. */
function replace(place, nodes) {
  const shown = el("section", {}, nodes);
  if (shown.isEqualNode(place)) return;
  const href = place.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  place.replaceChildren(...shown.childNodes);
  if (href) [...place.querySelectorAll("a")].find((link) => link.getAttribute("href") === href)?.focus({ preventScroll: true });
}

function callersOf({ callers, all_callers: all }) {
  const link = (text, name, filters) => el("a", { class: filters && "failed", href: requestsOf({ caller: name, ...filters }) }, text);
  return [
    el("h2", {}, t("Callers")),
    el("p.muted.small", {}, t("Use since the start of gatepass."), all > callers.length && ` ${t("The first {shown} of {all}.", { shown: count(callers.length), all: plural(all, "caller") })}`),
    table(t("Callers"), [t("Caller"), t("In flight"), t("Requests"), t("Errors"), t("Tokens"), t("Last use")], callers.map(({ name, in_flight: now, max_concurrent: most, requests, errors, tokens, last_used: last }) => [
      link(name, name),
      most ? t("{n} of {m}", { n: count(now), m: count(most) }) : count(now),
      count(requests),
      errors ? link(t("{n} ({more})", { n: count(errors), more: share(errors, requests) }), name, { outcome: "error" }) : "0",
      count(tokens),
      last ? moment(last) : t("not since the start"),
    ])),
  ];
}

function limitsOf({ limits }) {
  return limits.length > 0 && [
    el("h2", {}, t("Limits")),
    el("p.muted.small", {}, t("The limits with the smallest part left. gatepass limits lists all.")),
    table(t("Limits"), [t("Of"), t("Limit"), t("Most"), t("Used"), t("Left")], limits.map(({ of, limit, most, used, left }) => [
      of, el("code", {}, limit), count(most), count(used), left ? count(left) : el("span.failed", {}, "0"),
    ])),
  ];
}

function serversOf(page, servers) {
  return servers.length > 0 && [
    el("h2", {}, t("MCP servers")),
    table(t("MCP servers"), [t("Server"), t("URL for hosts"), t("Health"), t("Messages in 15 minutes"), t("HTTP errors")], servers.map((server) => {
      const { name: upstream, requests_15m: requests, all_errors: errors } = server;
      const url = `${page.session.base_url.replace(/\/v1$/, "")}/${upstream}`;
      return [
        el("a", { href: requestsOf({ upstream }) }, upstream.replace(/^mcp\//, "")),
        [el("code", {}, url), " ", copyButton(t("Copy the URL"), () => url, page.say)],
        showHealth(healthLine(), server),
        count(requests),
        errors ? el("a.failed", { href: requestsOf({ upstream, outcome: "error" }) }, t("{n} ({more})", { n: count(errors), more: share(errors, requests) })) : "0",
      ];
    })),
  ];
}
