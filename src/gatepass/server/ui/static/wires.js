// Lines between elements of a drawing, in an SVG behind them. They follow the elements when the layout changes.

import { keyed, set, svg } from "./dom.js";

const DOTS = 12;
const DOT_PX = 11;

/** Draw lines behind the children of `root`. Returns `show(links)`.
 *
 * A link is `{key, from, to, isBad, width, dots}`: two elements, and one dot for each request on the line, as many as fit. */
export function wires(root, signal) {
  const lines = svg("g");
  const dots = svg("g");
  const layer = svg("svg.wires", { "aria-hidden": "true" }, lines, dots);
  root.prepend(layer);
  let links = [];

  const draw = () => {
    const origin = root.getBoundingClientRect();
    set(layer, { width: origin.width, height: origin.height });
    const shown = links.filter(({ from, to }) => from.isConnected && to.isConnected);
    keyed(lines, shown, ({ key }) => key, () => svg("path"), (path, link) => {
      const d = curve(link.from.getBoundingClientRect(), link.to.getBoundingClientRect(), origin);
      set(path, { class: link.isBad ? "wire bad" : "wire", "data-link": link.key, d, "stroke-width": (link.width ?? 1.5).toFixed(2) });
    });
    keyed(dots, shown, ({ key }) => key, () => svg("g"), (group, link) => {
      set(group, { class: link.isBad ? "dots bad" : "dots", "data-dots": link.key });
      const path = lines.nodesByKey.get(link.key);
      const length = link.dots ? path.getTotalLength() : 0;
      const number = Math.min(DOTS, link.dots ?? 0, Math.floor(length / DOT_PX));
      const places = [...Array(number).keys()].map((i) => ({ i, at: path.getPointAtLength(((i + 1) * length) / (number + 1)) }));
      keyed(group, places, ({ i }) => i, () => svg("circle", { r: 3.5 }), (dot, { at }) => set(dot, { cx: at.x.toFixed(1), cy: at.y.toFixed(1) }));
    });
  };
  const observer = new ResizeObserver(draw);
  observer.observe(root);
  signal.addEventListener("abort", () => observer.disconnect());
  return (next) => {
    links = next;
    draw();
  };
}

/** The way from the right of one box to the left of the other, or down from one to the next. */
function curve(from, to, origin) {
  if (to.left >= from.right) {
    const [x1, y1] = [from.right - origin.left, from.top + from.height / 2 - origin.top];
    const [x2, y2] = [to.left - origin.left, to.top + to.height / 2 - origin.top];
    const middle = (x1 + x2) / 2;
    return `M${x1} ${y1}C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`;
  }
  const [x2, y2] = [to.left - origin.left, to.top + to.height / 2 - origin.top];
  const bottom = from.bottom - origin.top;
  if (to.left > from.left + 8) {
    const x = from.left - origin.left + 12; // a box below, moved in: along its left side
    return `M${x} ${bottom}V${y2 - 8}Q${x} ${y2} ${x + 8} ${y2}H${x2}`;
  }
  const x = from.left - origin.left + Math.min(from.width, to.width) / 2;
  return `M${x} ${bottom}V${to.top - origin.top}`;
}
