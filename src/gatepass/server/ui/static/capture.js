// Starts and ends the capture of whole bodies. For admins.

import { el } from "./dom.js";
import { plural, size, time } from "./format.js";

const MIB = 1024 * 1024;

/** Show the capture in `place`: what is captured, or the form that starts one. */
export async function capture(page, place) {
  const change = async (method, body) => {
    try {
      show(await page.call(method, "capture", body));
      page.say(method === "POST" ? "The capture has started." : "The capture has ended.");
    } catch (error) {
      page.fail(error);
    }
  };
  const show = (state) => {
    const what = [state.model && `model ${state.model}`, state.caller && `caller ${state.caller}`].filter(Boolean).join(", ") || "all requests";
    place.replaceChildren(el("h2", {}, "Capture"), state.running
      ? el("p", {},
        `Bodies of ${what} are captured until ${time(state.until)}. ${plural(state.captured, "request")}, ${size(state.held_bytes)}. `,
        el("button.quiet", { type: "button", onclick: () => change("DELETE") }, "End the capture"))
      : form(change));
  };
  show(await page.call("GET", "capture"));
}

function form(change) {
  const field = (text, control) => el("label", {}, el("span", {}, text), control);
  const submit = (event) => {
    event.preventDefault();
    const { model, caller, minutes, mib } = Object.fromEntries(new FormData(event.target));
    change("POST", { model: model || null, caller: caller || null, for_s: 60 * Number(minutes), bytes: Math.round(MIB * Number(mib)) });
  };
  return el("div", {},
    el("p.muted", {}, "Holds whole bodies in memory for a time, to show and to replay them. Nothing is written to disk."),
    el("form.filters", { onsubmit: submit, "aria-label": "Capture" },
      field("model", el("input", { name: "model", placeholder: "any", list: "models", autocomplete: "off" })),
      field("caller", el("input", { name: "caller", placeholder: "any", list: "callers", autocomplete: "off" })),
      field("minutes", el("input", { name: "minutes", type: "number", min: 1, max: 60, value: 10, required: true })),
      field("MiB", el("input", { name: "mib", type: "number", min: 1, max: 1024, value: 16, required: true })),
      el("button", { type: "submit" }, "Start")));
}
