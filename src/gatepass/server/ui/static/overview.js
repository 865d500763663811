// The overview: the way of the requests as a drawing, what failed, and plots of the last 15 minutes.

import { drawing, failing } from "./drawing.js";
import { el, keyed, set, write } from "./dom.js";
import { codeGloss } from "./error_code.js";
import { count, duration, plural, size, time, zone } from "./format.js";
import { plot } from "./plot.js";
import { t } from "./texts.js";

const PERCENTILES = [{ name: "p50", mark: "first" }, { name: "p95", mark: "second" }, { name: "p99", mark: "third" }];

export function overview(page) {
  const map = drawing(page.signal);
  const plots = {
    requests: plot({ title: t("Requests"), format: count, isCount: true, bars: true, lines: [{ name: t("requests"), mark: "bar" }, { name: t("errors"), mark: "bad" }] }),
    tokens: plot({ title: t("Tokens"), format: count, isCount: true, lines: [{ name: t("in"), mark: "second" }, { name: t("out"), mark: "first" }] }),
    ttft: plot({ title: t("Time to first token"), format: duration, lines: PERCENTILES }),
    duration: plot({ title: t("Duration without errors"), format: duration, lines: PERCENTILES }),
  };
  const captured = el("p.muted.captured", { hidden: true });
  const lost = el("p.problem.store", { hidden: true });
  const fails = el("p.problem.fails", { hidden: true });
  const codes = el("ul.codes", { "aria-label": t("Errors in 15 minutes, by code") });
  const failures = el("div", { hidden: true }, el("p.muted.small.since", { "aria-hidden": "true" }, t("Errors in 15 minutes, by code")), codes);
  const body = el("div", { hidden: true },
    lost,
    fails,
    el("h2.unseen", {}, t("Now")),
    map.node,
    failures,
    el("p.muted.small.key", {}, t("A dot is a request in flight. A bar is the life of a token, which is renewed at the mark. The ticks below it are the renewals of the last 15 minutes. The fetches count since the start of gatepass. The errors of an upstream leave out a 404 for a model that only the client named.")),
    captured,
    el("h2", {}, t("The last 15 minutes")),
    el("div.plots", {}, Object.values(plots).map(({ node }) => node)));
  page.main.append(el("h1.unseen", {}, t("Overview")), body);

  let { credential: wanted } = page.filters;
  const show = (data) => {
    body.hidden = false;
    map.show(data);
    if (wanted) { // once
      const card = [...map.node.querySelectorAll(".credential")].find(({ dataset }) => dataset.credential === wanted);
      if (card) set(card, { tabindex: -1 }).focus();
      wanted = null;
    }
    const { series, store } = data;
    lost.hidden = !store || ["up", "unchecked"].includes(store.state);
    if (!lost.hidden) write(lost, t("The shared store is not reachable. Each process fetches its own tokens and keeps its own learned rules. {reason}", { reason: store.reason ?? "" }));
    const down = failing(data);
    fails.hidden = !down.length;
    if (fails.dataset.shown !== String(down)) {
      fails.dataset.shown = String(down);
      fails.replaceChildren(t("Fails: "), ...down.flatMap(([text, href], i) => [i ? t(", ") : "", el("a", { href }, text)]), t(". Its last error shows the cause and what to do."));
    }
    const failed = Object.entries(data.errors_15m).sort(([, a], [, b]) => b - a);
    failures.hidden = !failed.length;
    keyed(codes, failed, ([code]) => code, ([code]) => el("li", {}, el("a", { href: `#/requests?code=${encodeURIComponent(code)}&within_s=900` }, el("b"), " ", el("code", {}, code)), codeGloss(code) && el("span.muted", {}, ` ${codeGloss(code)}`)), (item, [, number]) => write(item.querySelector("b"), count(number)));
    const percentiles = ({ p50, p95, p99 }) => [p50, p95, p99];
    plots.requests.show([series.requests, series.errors], series.ended_at, series.width_s);
    plots.tokens.show([series.tokens_in, series.tokens_out], series.ended_at, series.width_s);
    plots.ttft.show(percentiles(series.ttft_s), series.ended_at, series.width_s, series.ttft_s.over_s);
    plots.duration.show(percentiles(series.duration_s), series.ended_at, series.width_s, series.duration_s.over_s);
    const { capture } = data;
    captured.hidden = !capture?.running;
    if (capture?.running) write(captured, t("Bodies are captured until {until}: {requests}, {size}.", { until: `${time(capture.until)} ${zone(capture.until)}`, requests: plural(capture.captured, "request"), size: size(capture.held_bytes) }));
  };
  page.listen({ view: "overview", on: show });
}
