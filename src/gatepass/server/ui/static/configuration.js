// The values in effect with their origin, and what the last reload said.

import { el, table, write } from "./dom.js";
import { moment, plural } from "./format.js";
import { t } from "./texts.js";

export async function configuration(page) {
  const { values, reload } = await page.call("GET", "configuration");
  const tally = el("p.muted.small", { role: "status" });
  const list = table(t("Settings"), [t("Setting"), t("Value"), t("Origin")], values.map(({ setting, value, origin, secret }) => [
    el("code", {}, setting),
    secret ? el("span.muted", {}, t("hidden")) : el("code", {}, typeof value === "string" ? value : JSON.stringify(value)),
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
    write(tally, t("{settings} of {n}", { settings: plural(shown, "setting"), n: values.length }));
  };
  const form = el("form.filters", { role: "search", "aria-label": t("Settings"), oninput: choose, onsubmit: (event) => event.preventDefault() },
    el("label", {}, el("span", {}, t("name contains")), el("input", { type: "search", name: "text", autocomplete: "off" })),
    el("label.check", {}, el("input", { type: "checkbox", name: "set", checked: true }), t(" only what is set")));
  page.main.append(
    el("h1", {}, t("Configuration")),
    lastReload(reload),
    el("section", {}, el("h2", {}, t("Settings")), form, tally, list));
  choose();
}

function lastReload(reload) {
  if (!reload) return el("p.muted", {}, t("Not reloaded since the start."));
  const { problems, warnings, changed = [], needs_restart: waiting = [] } = reload;
  return el(problems.length ? "section.problem" : "section", {},
    el("h2", {}, t("The last reload")),
    el("p", {}, t("{at}: {outcome}.", { at: moment(reload.at), outcome: t(reload.outcome) })),
    changed.length > 0 && el("p", {}, t("Changed: {names}.", { names: changed.join(", ") })),
    waiting.length > 0 && el("p", {}, t("These need a restart: {names}.", { names: waiting.join(", ") })),
    problems.length > 0 && el("ul", {}, problems.map((text) => el("li", {}, text))),
    warnings.length > 0 && el("ul.muted", {}, warnings.map((text) => el("li", {}, text))));
}
