// Makes elements. Text is only ever a text node, so that no datum can become markup.

import { t } from "./texts.js";

const SVG = "http://www.w3.org/2000/svg";

function build(node, attributes, children) {
  set(node, attributes);
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Make an HTML element. `name` may end in classes: `el("p.muted", {id: "a"}, "text")`. */
export function el(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const node = document.createElement(tag);
  if (classes.length) node.className = classes.join(" ");
  return build(node, attributes, children);
}

/** Make an SVG element, with the same arguments as `el`. */
export function svg(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const node = document.createElementNS(SVG, tag);
  if (classes.length) node.setAttribute("class", classes.join(" "));
  return build(node, attributes, children);
}

/** Set attributes. A function listens to the event after `on`; false and null remove the attribute. */
export function set(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (value === false || value === null || value === undefined) node.removeAttribute(name);
    else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value === true ? "" : value);
  }
  return node;
}

/** Set the text of a node, and touch nothing if it is the same. */
export function write(node, text) {
  if (node.textContent !== String(text)) node.textContent = text;
  return node;
}

/** Make the children of `parent` one node for each item, in order. A node is kept while its key stays.
 *
 * `make(item)` returns a node, and `update(node, item)` shows the item in it. */
export function keyed(parent, items, keyOf, make, update) {
  const old = parent.nodesByKey ?? new Map();
  const nodes = new Map();
  let place = parent.firstChild;
  for (const item of items) {
    const key = keyOf(item);
    if (nodes.has(key)) continue;
    const node = old.get(key) ?? make(item);
    update(node, item);
    nodes.set(key, node);
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
  }
  for (const [key, node] of old) if (!nodes.has(key)) node.remove();
  parent.nodesByKey = nodes;
}

/** A table that stays one for screen readers when a phone shows its rows as blocks. */
export function table(caption, heads, rows) {
  return el("table.data", { role: "table" },
    el("caption.unseen", {}, caption),
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, heads.map((head) => el("th", { role: "columnheader", scope: "col" }, head)))),
    el("tbody", { role: "rowgroup" }, rows.map((cells) => row(heads, cells))));
}

/** A row of `table`. A cell is a text, a node, or an array of them. */
export function row(heads, cells) {
  return el("tr", { role: "row" }, cells.map((cell, i) => el("td", { role: "cell", "data-label": heads[i] }, cell ?? "–")));
}

/** A button that copies what `text()` returns, and says so. */
export function copyButton(label, text, say) {
  return el("button.quiet", {
    type: "button",
    onclick: async () => {
      try {
        say(await copy(await text()) ? t("Copied.") : t("The browser did not allow to copy."));
      } catch (error) {
        say(error.message);
      }
    },
  }, label);
}

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text).then(() => true, () => false);
  // Without TLS a browser has no clipboard API, except on loopback.
  const area = el("textarea.unseen", { "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  return copied;
}
