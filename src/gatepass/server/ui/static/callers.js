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
    [caller.models ? caller.models.join(", ") : "all models", caller.operations ? caller.operations.join(", ") : ""].filter(Boolean).join("; "),
    caller.profile || "–",
    caller.expires_at ? moment(caller.expires_at) : "never",
  ]));
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
