// When the pieces of a stream arrived.

import { el, svg } from "./dom.js";
import { duration, plural } from "./format.js";

const SLICES = 40;
const GAPS = 3;

/** A bar for each slice of time, and the longest gaps behind them. `began` is when the attempt began. */
export function arrivalsPlot({ reads, first_s: firstOfAttempt, last_s: lastOfAttempt, width_s: width, counts, gaps: gapsOfAttempt }, began) {
  // In the story these are times since the attempt began. On the page all are times of the request.
  const [first, last] = [began + firstOfAttempt, began + lastOfAttempt];
  const gaps = gapsOfAttempt.map((gap) => ({ ...gap, at_s: began + gap.at_s }));
  const highest = Math.max(1, ...counts);
  const end = Math.max(last, first + counts.length * width);
  const scale = (s) => (1000 * (s - first)) / Math.max(end - first, 1e-9);
  const slice = scale(first + width);
  const plot = svg("svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none", role: "img", "aria-label": `${plural(reads, "read")} from ${duration(first)} to ${duration(last)}` },
    gaps.map(({ at_s: at, length_s: length }) => svg("rect.gap", { x: scale(at).toFixed(1), width: Math.max(2, (1000 * length) / Math.max(end - first, 1e-9)).toFixed(1), height: 100 })),
    counts.map((number, i) => number > 0 && svg("rect.bars.first", {
      x: (i * slice + slice * 0.1).toFixed(2), width: (slice * 0.8).toFixed(2), y: (100 - (96 * number) / highest).toFixed(2), height: ((96 * number) / highest).toFixed(2),
    })));
  const longest = gaps.map(({ at_s: at, length_s: length }) => `${duration(length)} at ${duration(at)}`).join(", ");
  return el("figure.plot.arrivals", {},
    el("div.area", {}, plot),
    el("div.axis.small.muted", {}, el("span", {}, duration(first)), el("span", {}, `${plural(reads, "read")}, at most ${highest} in a bar of ${duration(width)}`), el("span", {}, duration(end))),
    longest && el("figcaption.muted.small", {}, `Longest gaps: ${longest}.`));
}

/** The arrivals of pieces at `times`, in seconds, as the story of a request has them. */
export function arrivalsOf(times) {
  const [first, last] = [times[0], times.at(-1)];
  const width = Math.max(0.001, (last - first) / SLICES);
  const counts = Array(SLICES).fill(0);
  for (const at of times) counts[Math.min(SLICES - 1, Math.floor((at - first) / width))] += 1;
  const gaps = times.slice(1).map((at, i) => ({ at_s: times[i], length_s: at - times[i] }));
  gaps.sort((a, b) => b.length_s - a.length_s);
  return { reads: times.length, first_s: first, last_s: last, width_s: width, counts, gaps: gaps.slice(0, GAPS) };
}
