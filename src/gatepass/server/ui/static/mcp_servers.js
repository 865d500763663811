// The MCP servers behind gatepass: their URL for hosts, their health, who may use what, and the tools that were called.

import { copyButton, el, table } from "./dom.js";
import { healthLine, showHealth, worstFirst } from "./drawing.js";
import { errorLinks, happened, reasonOf } from "./error_code.js";
import { count, plural } from "./format.js";
import { t } from "./texts.js";

/** Why a message that succeeded may have failed at its tool. */
export const UNREAD = t("gatepass does not read the results of tools. An error that the server reports in a reply with status 200, as a tool or in JSON-RPC, is not counted. A capture shows the reply.");

export async function mcpServers(page) {
  const [data, { callers }, { use }] = await Promise.all([page.call("GET", "overview"), page.call("GET", "callers"), page.call("GET", "use")]);
  const servers = worstFirst(data).filter(({ dialect }) => dialect === "mcp");
  page.main.append(el("h1", {}, t("MCP servers")));
  if (!servers.length) page.main.append(el("p.muted", {}, t("None is configured. The section mcp of the configuration names them.")));
  const reasons = await Promise.all(servers.map(({ health, last_failed: last }) => health === "failing" && last && reasonOf(page, last.id)));
  servers.forEach((server, i) => page.main.append(section(page, server, callers, use.filter(({ upstream }) => upstream === server.name), reasons[i])));
}

function section(page, server, callers, use, reason) {
  const name = server.name.replace(/^mcp\//, "");
  const url = `${page.session.base_url.replace(/\/v1$/, "")}/mcp/${name}`;
  const allowed = callers.filter(({ mcp }) => mcp?.[name] !== undefined);
  const called = use.filter(({ tool }) => tool);
  const sum = (member) => use.reduce((total, row) => total + row[member], 0);
  const requests = `#/requests?upstream=${encodeURIComponent(server.name)}`;
  return el("section", {},
    el("div.above", {}, el("h2", {}, name), el("div.actions", {}, page.isAdmin && el("a.button.quiet", { href: `#/doctor?mcp=${encodeURIComponent(name)}`, title: `gatepass doctor --mcp ${name}` }, t("Test")), copyButton(t("Copy the URL"), () => url, page.say))),
    el("dl.facts", {},
      fact(t("URL for hosts"), el("code", {}, url)),
      fact(t("server"), server.host),
      fact(t("credential"), server.credential ?? t("none")),
      fact(t("health"), [showHealth(healthLine(), server), reason && [happened(reason.case || reason.kind, reason.message, reason.names, reason.kind), reason.advice]]),
      fact(t("in memory"), [
        el("a", { href: requests }, plural(sum("requests"), "message")), t(", "), el("a", { class: sum("errors") ? "failed" : null, href: `${requests}&outcome=error` }, t("HTTP errors: {n}", { n: count(sum("errors")) })),
      ])),
    called.length > 0 && [
      el("h3", {}, t("Tools")),
      table(t("Tools of {name}", { name }), [t("Tool"), t("Calls"), t("HTTP errors")], called.map((row) => [
        el("a", { href: `${requests}&mcp_tool=${encodeURIComponent(row.tool)}` }, row.tool),
        count(row.requests),
        errorLinks(row, { mcp_tool: row.tool, upstream: server.name }),
      ])),
    ],
    el("p.muted.small", {}, UNREAD),
    el("h3", {}, t("Permissions")),
    table(t("Callers of {name}", { name }), [t("Caller"), t("Tools"), t("Prompts"), t("Resources")], allowed.map(({ name: caller, mcp }) => [
      el("a", { href: `#/requests?caller=${encodeURIComponent(caller)}&upstream=${encodeURIComponent(server.name)}` }, caller),
      ...["tools", "prompts", "resources"].map((kind) => mcp[name][kind] ? mcp[name][kind].join(t(", ")) || t("none") : t("all")),
    ])));
}

function fact(name, value) {
  return el("div", {}, el("dt", {}, name), el("dd", {}, value));
}
