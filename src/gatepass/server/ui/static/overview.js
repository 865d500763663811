// The overview: what fails, the sums of the last 15 minutes, the way of the requests as a drawing, plots, and use.

import { drawing, failing, parted } from "./drawing.js";
import { requestsOf } from "./api.js";
import { el, keyed, set, write } from "./dom.js";
import { codeGloss } from "./error_code.js";
import { count, duration, moment, plural, share, size, span, time, zone } from "./format.js";
import { bound, plot } from "./plot.js";
import { t } from "./texts.js";
import { useTables } from "./use.js";

const MOST_CODES = 5;
const PERCENTILES = [{ name: "p50", mark: "first" }, { name: "p95", mark: "second" }, { name: "p99", mark: "third" }];

export function overview(page) {
  const map = drawing(page.signal);
  const use = useTables(page);
  const plots = {
    requests: plot({ title: t("Requests"), format: count, isCount: true, bars: true, lines: [{ name: t("requests"), mark: "bar" }, { name: t("errors"), mark: "bad" }] }),
    tokens: plot({ title: t("Tokens"), format: count, isCount: true, lines: [{ name: t("in"), mark: "second" }, { name: t("out"), mark: "first" }] }),
    ttft: plot({ title: t("Time to first token"), format: duration, lines: PERCENTILES }),
    duration: plot({ title: t("Duration without errors"), format: duration, lines: PERCENTILES }),
  };
  const captured = el("p.muted.captured", { hidden: true });
  const banners = el("div.banners");
  const codes = el("ul.codes", { "aria-label": t("Errors in 15 minutes, by code") });
  const more = el("p.codes", { hidden: true }, el("a", { href: "#/requests?outcome=error" }));
  const sums = { requests: el("b"), errors: el("a", { href: "#/requests?outcome=error" }, el("b")), ttft: el("b"), duration: el("b"), callers: el("div.codes") };
  const sum = (title, value) => el("div", {}, el("dt", {}, title), el("dd", {}, value));
  const strip = el("div.card.strip", {},
    el("dl", {}, sum(t("Requests in 15 minutes"), sums.requests), sum(t("Errors"), sums.errors),
      sum(`${t("Time to first token")}${t(", ")}p50 · p95 · p99`, sums.ttft), sum(`${t("Duration without errors")}${t(", ")}p50 · p95 · p99`, sums.duration), sum(t("Callers with errors"), sums.callers)),
    el("div.codes", {}, codes, more));
  const body = el("div", { hidden: true },
    banners,
    strip,
    el("h2.unseen", {}, t("Now")),
    map.node,
    captured,
    el("h2.unseen", {}, t("The last 15 minutes")),
    el("div.plots", {}, Object.values(plots).map(({ node }) => node)),
    use.nodes);
  page.main.append(el("h1.unseen", {}, t("Overview")), body);

  let { credential: wanted } = page.filters;
  const show = (status, traffic, callers, limits) => {
    const data = { ...status, ...callers, ...limits, ...parted(status), series: traffic.series };
    body.hidden = false;
    map.show(data);
    use.show(data);
    if (wanted) { // once
      const card = [...map.node.querySelectorAll(".credential")].find(({ dataset }) => dataset.credential === wanted);
      if (card) set(card, { tabindex: -1 }).focus();
      wanted = null;
    }
    const { series, store, reload_problems: problems, keys } = data;
    const ending = keys.filter(({ state }) => state !== "valid");
    const down = failing(data);
    const shown = el("div.banners", {},
      store && !["up", "unchecked"].includes(store.state) && el("p.problem.store", {}, t("The shared store is not reachable. Each process fetches its own tokens and keeps its own learned rules. {reason}", { reason: store.reason ?? "" })),
      down.length > 0 && el("p.problem.fails", {}, t("Fails: "), down, t(". Its last error shows the cause and what to do.")),
      problems.length > 0 && el("p.problem.reload", {}, t("The last reload was refused"), t(": "), problems.join(t("; "))),
      ending.length > 0 && el("p.problem.ending", {}, ending.map(({ name, expires: end }) => t("The key of {name} {end}", { name, end: endOf(end) })).join(t(", "))));
    if (!shown.isEqualNode(banners)) banners.replaceChildren(...shown.childNodes); // else a focused link stays
    const [requests, errors] = [series.requests, series.errors].map((numbers) => numbers.reduce((total, number) => total + number, 0));
    const bounds = ({ all, over_s: over }) => PERCENTILES.map(({ name }) => bound(all[name], over, duration)).join(" · ");
    write(sums.requests, count(requests));
    write(set(sums.errors, { class: errors ? "failed" : null }).firstChild, errors ? t("{n} ({more})", { n: count(errors), more: share(errors, requests) }) : "0");
    write(sums.ttft, bounds(series.ttft_s));
    write(sums.duration, bounds(series.duration_s));
    keyed(sums.callers, Object.entries(traffic.callers).slice(0, MOST_CODES), ([name]) => name, ([name]) => el("span", {}, name === "none" ? t("no valid key") : el("a", { href: requestsOf({ outcome: "error", [name === "no_caller_row" ? "code" : "caller"]: name }) }, name), el("span")), (item, [, number]) => write(item.lastChild, ` ${count(number)}`));
    const failed = traffic.errors.slice(0, MOST_CODES);
    codes.hidden = !failed.length;
    keyed(codes, failed, ({ code, kind }) => `${kind} ${code}`, ({ code, kind }) => el("li", {}, el("a", { href: requestsOf({ code, kind }) }, el("b"), " ", el("code", {}, code)), el("span.muted")), (item, { code, kind, count: number }) => {
      write(item.querySelector("b"), count(number));
      codeGloss(page, code, kind).then((gloss) => write(item.lastChild, ` ${gloss}`.trimEnd())).catch(() => {});
    });
    const others = errors - failed.reduce((total, { count: number }) => total + number, 0);
    more.hidden = others <= 0;
    write(more.firstChild, t("+{n} others", { n: count(others) }));
    const percentiles = ({ p50, p95, p99 }) => [p50, p95, p99];
    plots.requests.show([series.requests, series.errors], series.ended_at, series.width_s);
    plots.tokens.show([series.tokens_in, series.tokens_out], series.ended_at, series.width_s);
    plots.ttft.show(percentiles(series.ttft_s), series.ended_at, series.width_s, series.ttft_s.over_s);
    plots.duration.show(percentiles(series.duration_s), series.ended_at, series.width_s, series.duration_s.over_s);
    const { capture } = data;
    captured.hidden = !capture?.running;
    if (capture?.running) write(captured, t("Bodies are captured until {until}: {requests}, {size}.", { until: `${time(capture.until)} ${zone(capture.until)}`, requests: plural(capture.captured, "request"), size: size(capture.held_bytes) }));
  };
  page.listen({ paths: () => ["status", "traffic", "callers", "limits?nearest=20"], on: show });
}

/** When a key of an overview ends or has ended, as a text. */
function endOf(end) {
  const left = (Date.parse(end) - Date.now()) / 1000;
  return left <= 0 ? t("expired {at}", { at: moment(end) }) : t("expires in {s}", { s: span(left).replaceAll(" ", "\u00a0") });
}
