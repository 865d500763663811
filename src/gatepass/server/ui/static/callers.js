// The keys, their use and their limits. Never a key.

import { el, svg, table } from "./dom.js";
import { count, moment, share } from "./format.js";

const AGAIN_MS = 2000;

export async function callers(page) {
  const place = el("div");
  page.main.append(el("h1", {}, "Callers"), place);
  const load = async () => {
    const data = await page.call("GET", "callers");
    place.replaceChildren(...[data.callers.length ? [list(data.callers), el("p.muted.small.since", {}, "The numbers count since the start of gatepass.")] : el("p.muted", {}, "No key is configured. Clients on this machine need none.")].flat());
    const timer = setTimeout(() => document.hidden ? addEventListener("visibilitychange", again, { once: true, signal: page.signal }) : again(), AGAIN_MS);
    page.signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
  };
  const again = () => load().catch(page.fail);
  await load();
}

function list(callers) {
  const heads = ["Caller", "Role", "In flight", "Requests", "Errors", "Tokens", "May use", "Profile", "Expires"];
  return table("Callers", heads, callers.map((caller) => [
    el("a", { href: `#/requests?caller=${encodeURIComponent(caller.name)}` }, caller.name),
    caller.role,
    inFlight(caller),
    count(caller.requests),
    caller.errors ? el("span.failed", {}, `${count(caller.errors)} (${share(caller.errors, caller.requests)})`) : "0",
    count(caller.tokens),
    mayUse(caller),
    caller.profile || "–",
    caller.expires_at ? moment(caller.expires_at) : "never",
  ]));
}

function mayUse({ models, operations, mcp }) {
  const servers = Object.entries(mcp ?? {}).map(([name, kinds]) => {
    const limits = Object.entries(kinds).filter(([, names]) => names?.length).map(([kind, names]) => `${kind} ${names.join(", ")}`);
    const isAll = Object.values(kinds).every((names) => !names);
    return `mcp/${name}${isAll ? "" : ` (${limits.join("; ") || "nothing of it"})`}`;
  });
  return [models ? models.join(", ") || "no model" : "all models", operations?.join(", "), servers.join(", ")].filter(Boolean).join("; ");
}

function inFlight({ in_flight: now, max_concurrent: most }) {
  if (!most) return count(now);
  return [
    `${count(now)} of ${count(most)}`,
    svg("svg.use", { width: 64, height: 4, "aria-hidden": "true" },
      svg("rect.track", { width: 64, height: 4, rx: 2 }),
      svg("rect", { class: "used", width: 64 * Math.min(1, now / most), height: 4, rx: 2 })),
  ];
}
