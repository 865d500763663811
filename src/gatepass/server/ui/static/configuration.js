// The values in effect with their origin, and what the last reload said.

import { el, table, write } from "./dom.js";
import { moment, plural } from "./format.js";

export async function configuration(page) {
  const { values, reload } = await page.call("GET", "configuration");
  const tally = el("p.muted.small", { role: "status" });
  const list = table("Settings", ["Setting", "Value", "Origin"], values.map(({ setting, value, origin, secret }) => [
    el("code", {}, setting),
    secret ? el("span.muted", {}, "hidden") : el("code", {}, typeof value === "string" ? value : JSON.stringify(value)),
    origin,
  ]));
  list.classList.add("settings");
  const rows = [...list.querySelectorAll("tbody tr")];
  const choose = () => {
    const { text, set } = Object.fromEntries(new FormData(form));
    let shown = 0;
    rows.forEach((row, i) => {
      const { setting, origin } = values[i];
      row.hidden = !setting.includes(text.trim()) || (set !== undefined && origin === "default");
      if (!row.hidden) shown += 1;
    });
    write(tally, `${plural(shown, "setting")} of ${values.length}`);
  };
  const form = el("form.filters", { role: "search", "aria-label": "Settings", oninput: choose, onsubmit: (event) => event.preventDefault() },
    el("label", {}, el("span", {}, "name contains"), el("input", { type: "search", name: "text", autocomplete: "off" })),
    el("label.check", {}, el("input", { type: "checkbox", name: "set", checked: true }), " only what is set"));
  page.main.append(
    el("h1", {}, "Configuration"),
    lastReload(reload),
    el("section", {}, el("h2", {}, "Settings"), form, tally, list));
  choose();
}

function lastReload(reload) {
  if (!reload) return el("p.muted", {}, "Not reloaded since the start.");
  const { problems, warnings, changed = [], needs_restart: waiting = [] } = reload;
  return el(problems.length ? "section.problem" : "section", {},
    el("h2", {}, "The last reload"),
    el("p", {}, `${moment(reload.at)}: ${reload.outcome}.`),
    changed.length > 0 && el("p", {}, `Changed: ${changed.join(", ")}.`),
    waiting.length > 0 && el("p", {}, `These need a restart: ${waiting.join(", ")}.`),
    problems.length > 0 && el("ul", {}, problems.map((text) => el("li", {}, text))),
    warnings.length > 0 && el("ul.muted", {}, warnings.map((text) => el("li", {}, text))));
}
