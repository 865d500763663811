// Starts and ends the capture of whole bodies. For admins.

import { el, write } from "./dom.js";
import { plural, size, time, zone } from "./format.js";
import { t } from "./texts.js";

const AGAIN_MS = 2000;

/** Show the capture in `place`: what is captured, or the form that starts one, with the model and the caller of `filters`. */
export async function capture(page, place, filters) {
  let timer = null;
  const change = async (method, body) => {
    try {
      show(await page.call(method, "capture", body));
      place.querySelector("summary, button").focus();
      page.say(method === "POST" ? t("The capture has started.") : t("The capture has ended."));
    } catch (error) {
      page.fail(error);
    }
  };
  const show = (state) => {
    clearTimeout(timer);
    if (!state.running) {
      place.replaceChildren(form(change, filters));
      return;
    }
    if (!place.querySelector(".running")) {
      place.replaceChildren(el("h2.unseen", {}, t("Capture")), el("p.running", {}, el("span"), " ", el("button.quiet", { type: "button", onclick: () => change("DELETE") }, t("End the capture"))));
    }
    const what = [state.model && t("model {name}", { name: state.model }), state.caller && t("caller {name}", { name: state.caller })].filter(Boolean).join(t(", ")) || t("all requests");
    write(place.querySelector(".running span"), t("Bodies of {what} are captured until {until}: {requests}, {size}.", { what, until: `${time(state.until)} ${zone(state.until)}`, requests: plural(state.captured, "request"), size: size(state.held_bytes) }));
    timer = setTimeout(() => load().catch(page.fail), AGAIN_MS);
  };
  const load = async () => show(await page.call("GET", "capture"));
  page.signal.addEventListener("abort", () => clearTimeout(timer));
  await load();
}

function form(change, { model: chosenModel, caller: chosenCaller }) {
  const field = (text, control) => el("label", {}, el("span", {}, text), control);
  const submit = (event) => {
    event.preventDefault();
    const { model, caller, minutes } = Object.fromEntries(new FormData(event.target));
    change("POST", { model: model || null, caller: caller || null, for_s: 60 * Number(minutes) });
  };
  return el("details", {},
    el("summary", {}, t("Capture bodies")),
    el("p.muted.small", {}, t("Holds whole bodies in memory for a time. Nothing is written to disk.")),
    el("form.filters", { onsubmit: submit, "aria-label": t("Capture") },
      field(t("model"), el("input", { name: "model", value: chosenModel, placeholder: t("any"), autocomplete: "off" })),
      field(t("caller"), el("input", { name: "caller", value: chosenCaller, placeholder: t("any"), autocomplete: "off" })),
      field(t("minutes"), el("input", { name: "minutes", type: "number", min: 1, max: 60, value: 10, required: true })),
      el("button", { type: "submit" }, t("Start the capture"))));
}
