// The MCP servers behind gatepass: their URL for hosts, their health, who may use what, and the tools that were called.

import { query, requestsOf } from "./api.js";
import { copyButton, el, table } from "./dom.js";
import { healthLine, showHealth, worstFirst } from "./drawing.js";
import { errorLinks, happened, reasonOf, summed } from "./error_code.js";
import { count, plural } from "./format.js";
import { t } from "./texts.js";

/** Why a message that succeeded may have failed at its tool. */
export const UNREAD = t("gatepass does not read the results of tools. An error that the server reports in a reply with status 200, as a tool or in JSON-RPC, is not counted. A capture shows the reply.");

export async function mcpServers(page) {
  const [data, { callers }, { use }] = await Promise.all([page.call("GET", "overview"), page.call("GET", "callers"), page.call("GET", "use")]);
  const servers = worstFirst(data).filter(({ dialect }) => dialect === "mcp");
  page.main.append(el("h1", {}, t("MCP servers")));
  if (!servers.length) page.main.append(el("p.muted", {}, t("None is configured. The section mcp of the configuration names them.")));
  const reasons = await Promise.all(servers.map(async ({ health, lacks, last_failed: last }) => {
    const [one] = lacks ? (await page.call("GET", `requests${query({ hop: `credential:${lacks}`, limit: 1 })}`)).requests : [health === "failing" && last];
    return one && reasonOf(page, one.id);
  }));
  servers.forEach((server, i) => page.main.append(section(page, server, callers, use.filter(({ upstream }) => upstream === server.name), reasons[i])));
  if (servers.length) page.main.append(el("p.muted.small.since", {}, UNREAD));
}

function section(page, server, callers, use, reason) {
  const name = server.name.replace(/^mcp\//, "");
  const url = `${page.session.base_url.replace(/\/v1$/, "")}/mcp/${name}`;
  const allowed = callers.filter(({ mcp }) => mcp?.[name] !== undefined);
  const called = use.filter(({ tool }) => tool);
  const sum = summed(use);
  const upstream = server.name;
  return el("section", {},
    el("div.above", {}, el("h2", {}, name), el("div.actions", {}, page.isAdmin && el("a.button.quiet", { href: `#/doctor?mcp=${encodeURIComponent(name)}`, title: `gatepass doctor --mcp ${name}` }, t("Test")), copyButton(t("Copy the URL"), () => url, page.say))),
    showHealth(healthLine(), server),
    reason && [happened(reason.case || reason.kind, reason.message, reason.names, reason.kind), reason.advice],
    el("dl.facts", {},
      fact(t("URL for hosts"), el("code", {}, url)),
      fact(t("server"), server.host),
      fact(t("credential"), server.credential ?? t("none")),
      fact(t("in memory"), [el("a", { href: requestsOf({ upstream }) }, plural(sum.requests, "message")), t(", "), t("HTTP errors"), t(": "), errorLinks(sum, { upstream })])),
    called.length > 0 && [
      el("h3", {}, t("Tools")),
      table(t("Tools of {name}", { name }), [t("Tool"), t("Calls"), t("HTTP errors")], called.map((row) => [
        el("a", { href: requestsOf({ upstream, mcp_tool: row.tool }) }, row.tool),
        count(row.requests),
        errorLinks(summed([row]), { mcp_tool: row.tool, upstream }),
      ])),
    ],
    el("h3", {}, t("Permissions")),
    table(t("Callers of {name}", { name }), [t("Caller"), t("Tools")], allowed.map(({ name: caller, mcp }) => [
      el("a", { href: requestsOf({ caller, upstream }) }, caller),
      mcp[name] ? mcp[name].join(t(", ")) || t("none") : t("all"),
    ])));
}

function fact(name, value) {
  return el("div", {}, el("dt", {}, name), el("dd", {}, value));
}
