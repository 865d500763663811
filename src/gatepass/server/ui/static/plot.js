// A plot of the last 15 minutes: bars or lines over 60 slices of time, with the values at the pointer or the arrow keys.

import { el, set, svg, write } from "./dom.js";
import { time } from "./format.js";
import { t } from "./texts.js";

const HEIGHT = 100;

/** A value as a text of `format`. With `over` it is a bound: at most as long, or longer than `over`. */
export function bound(value, over, format) {
  if (value === null || over === null) return format(value);
  return value > over ? `> ${format(over)}` : `≤ ${format(value)}`;
}

/** Returns `{node, show(lines, endedAt, widthS, over)}`. Its legend has the values at the pointer. Without one it has the
 * newest values, or the sums if the plot `isCount`.
 *
 * `lines` names each line: `{name, mark}`, in the order that `show` receives. With `over` the values are bounds, as of `bound`. With
 * `bars` the lines are bars, each in front of the one before. */
export function plot({ title, lines, format, bars = false, isCount = false }) {
  const values = lines.map(({ name, mark }) => el("li", {}, el("i", { class: mark, "aria-hidden": "true" }), name, " ", el("b")));
  const top = el("span.top.small.muted", { "aria-hidden": "true" });
  const shapes = lines.map(({ mark }) => svg(bars ? "path.bars" : "path.line", { class: `${bars ? "bars" : "line"} ${mark}` }));
  const pointer = svg("line.pointer", { y1: 0, y2: HEIGHT, visibility: "hidden" });
  const canvas = svg("svg", { preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("path.grid", { d: "" }), shapes, pointer);
  const from = el("span", {}, t("15 min ago"));
  const area = el("div.area", { role: "slider", tabindex: 0, "aria-label": title, "aria-valuemin": 0 }, canvas);
  const node = el("figure.plot", {},
    el("figcaption", {}, el("h3", {}, title), el("ul.legend", {}, el("li.at"), values)),
    el("div.frame", {}, top, area),
    el("div.axis.small.muted", { "aria-hidden": "true" }, from, el("span", {}, t("now"))));
  let data = { series: lines.map(() => []), endedAt: 0, widthS: 1, over: null };
  const text = (value) => bound(value, data.over, format);
  let chosen = null;

  const draw = () => {
    const { series, endedAt, widthS } = data;
    const slices = series[0].length;
    const highest = nice(Math.max(0, ...series.flat().map((value) => value ?? 0)));
    const y = (value) => (HEIGHT - (value / highest) * (HEIGHT - 4)).toFixed(2);
    set(canvas, { viewBox: `0 0 ${Math.max(1, slices)} ${HEIGHT}` });
    set(canvas.firstChild, { d: `M0 ${y(highest)}H${slices}M0 ${y(highest / 2)}H${slices}M0 ${HEIGHT}H${slices}` });
    series.forEach((points, i) => set(shapes[i], { d: bars ? barsOf(points, y) : lineOf(points, y) }));
    write(top, format(highest).replace(/\.0+(?= |$)/, ""));
    const at = chosen ?? lastKnown(series);
    const shown = series.map((points) => (isCount && chosen === null ? points.reduce((sum, value) => sum + (value ?? 0), 0) : points[at] ?? null));
    shown.forEach((value, i) => write(values[i].querySelector("b"), text(value)));
    set(pointer, { x1: (chosen ?? 0) + 0.5, x2: (chosen ?? 0) + 0.5, visibility: chosen === null ? "hidden" : "visible" });
    const when = time(endedAt - (slices - 1 - at) * widthS);
    const of = isCount && chosen === null ? t("in all") : t("at {when}", { when });
    write(node.querySelector(".at"), of);
    const told = lines.map(({ name }, i) => `${name} ${text(shown[i])}`).join(t(", "));
    set(area, { "aria-valuemax": Math.max(0, slices - 1), "aria-valuenow": Math.max(0, at), "aria-valuetext": `${of}${t(": ")}${told}` });
  };
  const choose = (slice) => {
    const last = data.series[0].length - 1;
    chosen = slice === null || last < 0 ? null : Math.min(last, Math.max(0, slice));
    draw();
  };
  set(area, {
    onpointermove: (event) => {
      const box = area.getBoundingClientRect();
      choose(Math.floor(((event.clientX - box.left) / box.width) * data.series[0].length));
    },
    onpointerleave: () => choose(null),
    onblur: () => choose(null),
    onkeydown: (event) => {
      const last = data.series[0].length - 1;
      const at = chosen ?? last;
      const slice = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
      if (event.key === "Escape") choose(null);
      if (slice === undefined) return;
      event.preventDefault();
      choose(slice);
    },
  });
  return {
    node,
    show: (series, endedAt, widthS, over = null) => {
      data = { series, endedAt, widthS, over };
      draw();
    },
  };
}

function barsOf(points, y) {
  return points.map((value, i) => (value ? `M${i + 0.14} ${HEIGHT}V${y(value)}h.72V${HEIGHT}z` : "")).join("");
}

/** A line through the known values. A value between two unknown ones is a dash. */
function lineOf(points, y) {
  let path = "";
  points.forEach((value, i) => {
    if (value === null || value === undefined) return;
    if ((points[i - 1] ?? null) !== null) path += `L${i + 0.5} ${y(value)}`;
    else if ((points[i + 1] ?? null) !== null) path += `M${i + 0.5} ${y(value)}`;
    else path += `M${i + 0.2} ${y(value)}h.6`;
  });
  return path;
}

function lastKnown(series) {
  const last = series[0].length - 1;
  for (let i = last; i >= 0; i -= 1) if (series.some((points) => points[i] !== null && points[i] !== undefined)) return i;
  return last;
}

/** The next number that is 1, 2 or 5 times a power of ten. */
function nice(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find((step) => value <= step * power * 1.0000001);
}
