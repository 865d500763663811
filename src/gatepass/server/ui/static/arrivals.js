// When the pieces of a stream arrived.

import { el, svg } from "./dom.js";
import { duration, plural } from "./format.js";
import { t } from "./texts.js";

/** A bar for each slice of time, and the longest gaps behind them. `began` and `ended` are of the attempt, in seconds of the
 * request. `ended` is now while the attempt `isRunning`, and null if it is not known. */
export function arrivalsPlot({ reads, first_s: firstOfAttempt, last_s: lastOfAttempt, width_s: width, counts, gaps: gapsOfAttempt }, began, ended, isRunning = false) {
  // In the story these are times since the attempt began. On the page all are times of the request.
  const [first, last] = [began + firstOfAttempt, began + lastOfAttempt];
  const end = Math.max(last, ended ?? first + counts.length * width);
  const silence = isRunning && end > last ? { at_s: last, length_s: end - last } : null;
  // The story of a running attempt may have its silence as a gap too.
  const gaps = gapsOfAttempt.filter((gap) => !silence || gap.at_s !== lastOfAttempt).map((gap) => ({ ...gap, at_s: began + gap.at_s }));
  const highest = Math.max(1, ...counts);
  const scale = (s) => (1000 * Math.min(end - first, s - first)) / Math.max(end - first, 1e-9);
  const plot = svg("svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none", role: "img", "aria-label": t("{reads} from {first} to {last}", { reads: plural(reads, "read"), first: duration(first), last: duration(last) }) },
    [...gaps, ...(silence ? [silence] : [])].map((gap) => svg(gap === silence ? "rect.gap.silence" : "rect.gap", { x: scale(gap.at_s).toFixed(1), width: Math.max(2, scale(gap.at_s + gap.length_s) - scale(gap.at_s)).toFixed(1), height: 100 })),
    counts.map((number, i) => {
      const [from, to] = [scale(first + i * width), scale(first + (i + 1) * width)]; // the last slice may be longer than the stream
      const bar = { x: (from + (to - from) * 0.1).toFixed(2), width: ((to - from) * 0.8).toFixed(2) };
      return number > 0 && svg("rect.bars.first", { ...bar, y: (100 - (96 * number) / highest).toFixed(2), height: ((96 * number) / highest).toFixed(2) });
    }));
  const longest = gaps.map(({ at_s: at, length_s: length }) => t("{length} at {at}", { length: duration(length), at: duration(at) })).join(t(", "));
  return el("figure.plot.arrivals", {},
    el("div.area", {}, plot),
    el("div.axis.small.muted", {}, el("span", {}, duration(first)), el("span", {}, plural(reads, "read") + (counts.length > 1 ? t(", at most {n} in a bar of {width}", { n: highest, width: duration(width) }) : "")), el("span", {}, silence ? t("now, {s}", { s: duration(end) }) : duration(end))),
    (silence || longest) && el("figcaption.muted.small", {}, silence && el("b", {}, t("Silent for {s}. ", { s: duration(silence.length_s) })), longest && t("Longest gaps: {gaps}.", { gaps: longest }), t(" Times count from the start of the request.")));
}
