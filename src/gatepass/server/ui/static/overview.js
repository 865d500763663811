// The overview: the way of the requests as a drawing, and plots of the last 15 minutes.

import { drawing } from "./drawing.js";
import { el, write } from "./dom.js";
import { count, duration, plural, size, time, zone } from "./format.js";
import { plot } from "./plot.js";

const PERCENTILES = [{ name: "p50", mark: "first" }, { name: "p95", mark: "second" }, { name: "p99", mark: "third" }];

export function overview(page) {
  const map = drawing(page.signal);
  const plots = {
    requests: plot({ title: "Requests", format: count, isCount: true, bars: true, lines: [{ name: "requests", mark: "second" }, { name: "errors", mark: "bad" }] }),
    tokens: plot({ title: "Tokens", format: count, isCount: true, lines: [{ name: "in", mark: "second" }, { name: "out", mark: "first" }] }),
    ttft: plot({ title: "Time to first token", format: duration, lines: PERCENTILES }),
    duration: plot({ title: "Duration", format: duration, lines: PERCENTILES }),
  };
  const captured = el("p.muted.captured", { hidden: true });
  const body = el("div", { hidden: true },
    el("h2.unseen", {}, "Now"),
    map.node,
    el("p.muted.small.key", {}, "A dot is a request in flight. A bar is the life of a token, which is renewed at the mark. The ticks below it are the renewals of the last 15 minutes."),
    captured,
    el("h2", {}, "The last 15 minutes"),
    el("div.plots", {}, Object.values(plots).map(({ node }) => node)));
  page.main.append(el("h1.unseen", {}, "Overview"), body);

  const show = (data) => {
    body.hidden = false;
    map.show(data);
    const { series } = data;
    const percentiles = ({ p50, p95, p99 }) => [p50, p95, p99];
    plots.requests.show([series.requests, series.errors], series.ended_at, series.width_s);
    plots.tokens.show([series.tokens_in, series.tokens_out], series.ended_at, series.width_s);
    plots.ttft.show(percentiles(series.ttft_s), series.ended_at, series.width_s, series.ttft_s.over_s);
    plots.duration.show(percentiles(series.duration_s), series.ended_at, series.width_s, series.duration_s.over_s);
    const { capture } = data;
    captured.hidden = !capture?.running;
    if (capture?.running) write(captured, `Bodies are captured until ${time(capture.until)} ${zone(capture.until)}: ${plural(capture.captured, "request")}, ${size(capture.held_bytes)}.`);
  };
  page.listen({ view: "overview", on: show });
}
