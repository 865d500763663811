// A chat through any model, as the admin who is signed in, with the profile of any client. Nothing is kept when the view is left.

import { ApiError, events, query } from "./api.js";
import { arrivalsOf, arrivalsPlot } from "./arrivals.js";
import { el, write } from "./dom.js";
import { documentedCode, happened, reasonOf } from "./error_code.js";
import { duration, plural } from "./format.js";
import { knownModels } from "./models.js";
import { t } from "./texts.js";

export async function playground(page) {
  let messages = [];
  let leaving = new AbortController();
  const talk = el("ol.talk", { "aria-label": t("Conversation") });
  const models = el("datalist", { id: "playground-models" });
  const model = el("input", { name: "model", required: true, list: "playground-models", autocomplete: "off" });
  const profile = el("select", { name: "profile" });
  const text = el("textarea", { name: "text", rows: 3, required: true, onkeydown: (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && form.requestSubmit() });
  const images = el("input", { name: "images", type: "file", accept: "image/*", multiple: true });
  const button = el("button", { type: "submit" }, t("Send"));
  const stop = el("button.quiet", { type: "button", hidden: true, onclick: () => leaving.abort() }, t("Stop"));
  const clear = el("button.quiet", {
    type: "button",
    onclick: () => {
      leaving.abort();
      messages = [];
      talk.replaceChildren();
    },
  }, t("New conversation"));

  const submit = async (event) => {
    event.preventDefault();
    if (button.disabled) return;
    const parts = await Promise.all([...images.files].map(imagePart));
    const content = parts.length ? [{ type: "text", text: text.value }, ...parts] : text.value;
    const asked = { role: "user", content };
    talk.append(el("li.asked", {}, el("p", {}, text.value), parts.map(({ image_url: { url } }) => el("img", { src: url, alt: t("An image of the question") }))));
    text.value = "";
    images.value = "";
    leaving = new AbortController();
    page.signal.addEventListener("abort", () => leaving.abort());
    button.disabled = true;
    stop.hidden = false;
    const route = `playground${query({ profile: profile.value })}`;
    const answer = await receive(page, talk, route, { model: model.value, stream: true, messages: [...messages, asked] }, leaving.signal);
    if (answer) messages.push(asked, { role: "assistant", content: answer });
    button.disabled = false;
    stop.hidden = true;
    const isStopped = leaving.signal.aborted;
    page.say(isStopped ? t("Stopped.") : answer === null ? t("The request failed.") : t("The answer is complete."));
  };
  const form = el("form.ask", { onsubmit: submit, "aria-label": t("Question") },
    el("label", {}, el("span", {}, t("model")), model, models),
    el("label", {}, el("span", {}, t("as")), profile),
    el("label", {}, el("span", {}, t("images")), images),
    el("label.message", {}, el("span", {}, t("message")), text),
    el("div.actions", {}, button, stop, clear));

  page.main.append(el("h1", {}, t("Playground")));
  if (!page.isAdmin) {
    page.main.append(el("p.muted", {}, t("The playground requires the key of an admin.")));
    return;
  }
  const [known, { callers, profiles }] = await Promise.all([knownModels(page, true), page.call("GET", "callers")]);
  const names = known.flat();
  const clients = callers.filter((caller) => caller.profile !== "plain");
  profile.append(
    el("option", { value: "" }, t("yourself")),
    ...profiles.map((name) => el("option", { value: name }, labelOf(name, clients.filter((caller) => caller.profile === name)))));
  models.append(...names.map((name) => el("option", { value: name })));
  model.value = names[0] ?? "";
  page.main.append(talk, form); // not before, because the name of a model would replace a typed one
}

function labelOf(name, clients) {
  const callers = clients.map((caller) => caller.name).join(t(", "));
  return callers ? t("profile {name} (callers: {callers})", { name, callers }) : t("profile {name}", { name });
}

async function imagePart(file) {
  const url = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
  return { type: "image_url", image_url: { url } };
}

/** Show the answer in `talk` as it arrives, with its times. Returns its text, or null if it failed. */
async function receive(page, talk, route, body, signal) {
  const said = el("p.said");
  const facts = el("p.muted.small", { role: "status" }, t("Waiting for the first token."));
  const item = el("li.answered", {}, said, facts);
  talk.append(item);
  const began = performance.now();
  const times = [];
  let id = null;
  let failure = null;
  try {
    for await (const { data } of events(route, body, signal, (response) => { id = response.headers.get("x-request-id"); })) {
      if (data?.error) failure = new ApiError(null, data.error);
      const piece = data?.choices?.[0]?.delta?.content;
      if (!piece) continue;
      times.push((performance.now() - began) / 1000);
      said.append(piece);
      write(facts, t("First token after {s}", { s: duration(times[0]) }));
    }
  } catch (error) {
    failure = signal.aborted ? new ApiError(null, { message: t("Stopped.") }) : error;
    id ??= failure.id ?? null;
  }
  const all = (performance.now() - began) / 1000;
  const spread = times.length > 1 ? times.at(-1) - times[0] : 0;
  const link = id && el("a", { href: `#/requests/${encodeURIComponent(id)}` }, t("Show the request"));
  facts.replaceChildren([
    times.length > 0 && t("First token after {s}", { s: duration(times[0]) }),
    times.length > 0 && plural(times.length, "piece"),
    spread > 0 && t("{n} a second", { n: ((times.length - 1) / spread).toFixed(0) }),
    t("in all {s}", { s: duration(all) }),
  ].filter(Boolean).join(" · "), " ", link ?? "");
  if (times.length > 2) item.append(arrivalsPlot(arrivalsOf(times), 0, all));
  if (failure) item.append(failed(failure, failure.code && id && await reasonOf(page, id)));
  return failure ? null : said.textContent;
}

/** The error of an answer: its status, code and hop, what to do, and what the code means. */
function failed({ status, code, hop, message }, reason) {
  const what = [status, code].filter(Boolean).join(" ");
  return el("div.failed", { role: "alert" },
    what && el("p", {}, el("b", {}, what), hop && t(" at {hop}", { hop })), happened(reason?.case || documentedCode(code, hop), message, reason?.names),
    reason?.retry_after_s && el("p", {}, t("It asks the client to wait {s}.", { s: duration(reason.retry_after_s) })),
    reason?.advice,
    code && el("p", {}, el("a", { href: `#/errors/${encodeURIComponent(code)}` }, t("What {code} means", { code }))));
}
