// A chat through any model, as the admin who is signed in, with the profile of any client. Nothing is kept when the view is left,
// except for another language.

import { events, query } from "./api.js";
import { el, write } from "./dom.js";
import { codeLinks, documentedCode, happened, reasonOf } from "./error_code.js";
import { duration, plural } from "./format.js";
import { knownModels } from "./models.js";
import { t } from "./texts.js";

export async function playground(page) {
  let turns = page.kept?.turns ?? [];
  let leaving = new AbortController();
  const talk = el("ol.talk", { "aria-label": t("Conversation") });
  const models = el("datalist", { id: "playground-models" });
  const model = el("input", { name: "model", required: true, list: "playground-models", autocomplete: "off", onfocus: () => [model.placeholder, model.value] = [model.value, ""], onblur: () => { model.value ||= model.placeholder; } });
  const profile = el("select", { name: "profile" });
  const text = el("textarea", { name: "text", rows: 3, required: true, onkeydown: (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && form.requestSubmit() });
  const parameters = el("textarea", { name: "parameters", "aria-label": t("parameters (JSON)"), rows: 3, spellcheck: "false", placeholder: '{"temperature": 0, "messages": [{"role": "system", "content": "…"}]}', oninput: () => parameters.setCustomValidity("") });
  const images = el("input", { name: "images", type: "file", accept: "image/*", multiple: true });
  const button = el("button", { type: "submit" }, t("Send"));
  const stop = el("button.quiet", { type: "button", hidden: true, onclick: () => leaving.abort() }, t("Stop"));
  const clear = el("button.quiet", {
    type: "button",
    onclick: () => {
      leaving.abort();
      turns = [];
      talk.replaceChildren();
    },
  }, t("New conversation"));

  const submit = async (event) => {
    event.preventDefault();
    if (button.disabled) return;
    const members = membersOf(parameters.value);
    if (!members) {
      parameters.closest("details").open = true;
      parameters.setCustomValidity(t("Write a JSON object whose member messages, if any, is a list."));
      parameters.reportValidity();
      return;
    }
    const urls = await Promise.all([...images.files].map(imageUrl));
    const turn = { text: text.value, urls, model: model.value, profile: profile.value, said: "", times: [], id: null, all: null, failure: null };
    const before = turns.filter(({ said, all, failure }) => said && all !== null && !failure).flatMap((one) => [askedIn(one), { role: "assistant", content: one.said }]);
    turns.push(turn);
    text.value = "";
    images.value = "";
    leaving = new AbortController();
    page.signal.addEventListener("abort", () => leaving.abort());
    button.disabled = true;
    stop.hidden = false;
    await receive(page, show(talk, turn), turn, { model: turn.model, ...members, stream: true, messages: [...members.messages ?? [], ...before, askedIn(turn)] }, leaving.signal);
    button.disabled = false;
    stop.hidden = true;
    const isStopped = leaving.signal.aborted;
    if (turn.failure && !isStopped) text.value ||= turn.text; // to send it again
    page.say(isStopped ? t("Stopped.") : turn.failure ? t("The request failed.") : t("The answer is complete."));
  };
  const form = el("form.ask", { onsubmit: submit, "aria-label": t("Question") },
    el("label", {}, el("span", {}, t("model")), model, models),
    el("label", {}, el("span", {}, t("as")), profile),
    el("label", {}, el("span", {}, t("images")), images),
    el("label.message", {}, el("span", {}, t("message")), text),
    el("details.message", { open: Boolean(page.kept?.parameters) }, el("summary", {}, t("parameters (JSON)")),
      el("p.muted.small", {}, t("Its members are sent with the request. Its messages, such as a system prompt, come first.")), parameters),
    el("p.message.muted.small", {}, t("A profile adapts the request as for its callers. Their limits and permissions are not applied.")),
    el("div.actions", {}, button, el("span.muted.small", {}, t("Ctrl+Enter sends")), stop, clear));

  page.main.append(el("h1", {}, t("Playground")));
  if (!page.isAdmin) {
    page.main.append(el("p.muted", {}, t("The playground requires the key of an admin.")));
    return;
  }
  page.keep(() => ({ turns, model: model.value, profile: profile.value, text: text.value, parameters: parameters.value }));
  const [known, { callers, profiles }] = await Promise.all([knownModels(page, true), page.call("GET", "callers")]);
  const [declared, others, used] = known;
  const names = [...declared, ...others];
  const clients = callers.filter((caller) => caller.profile && caller.profile !== "plain");
  profile.append(
    el("option", { value: "" }, t("yourself")),
    ...clients.filter(({ profile: name }) => profiles.includes(name)).map((caller) => el("option", { value: caller.profile }, t("{name} (profile {profile})", caller))),
    ...profiles.filter((name) => !clients.some((caller) => caller.profile === name)).map((name) => el("option", { value: name }, t("profile {name}", { name }))));
  models.append(...names.map((name) => el("option", { value: name })));
  model.value = page.kept?.model ?? used ?? names[0] ?? "";
  profile.value = page.kept?.profile ?? "";
  text.value = page.kept?.text ?? "";
  parameters.value = page.kept?.parameters ?? "";
  page.main.append(talk, form); // not before, because the name of a model would replace a typed one
  for (const turn of turns) {
    if (turn.all === null) turn.failure = { message: t("Stopped.") };
    await finish(page, show(talk, turn), turn);
  }
}

/** The message of the client in a turn. */
function askedIn({ text, urls }) {
  return { role: "user", content: urls.length ? [{ type: "text", text }, ...urls.map((url) => ({ type: "image_url", image_url: { url } }))] : text };
}

/** Show a turn, as far as it has arrived. */
function show(talk, { text, urls, model, profile, said: already }) {
  const said = el("p.said", {}, already);
  const facts = el("p.muted.small", { role: "status" }, t("Waiting for the first token."));
  const item = el("li.answered", {}, el("p.muted.small.who", {}, `${model} · ${t("as {name}", { name: profile ? t("profile {name}", { name: profile }) : t("yourself") })}`), said, facts);
  talk.append(el("li.asked", {}, el("p", {}, text), urls.map((url) => el("img", { src: url, alt: t("An image of the question") }))), item);
  return { said, facts, item };
}

/** The members of a JSON object, none of an empty text. Null if it is not one. */
function membersOf(text) {
  try {
    const members = text.trim() ? JSON.parse(text) : {};
    return members?.constructor === Object && Array.isArray(members.messages ?? []) ? members : null;
  } catch {
    return null;
  }
}

function imageUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

/** Show the answer of a turn as it arrives, with its times. Records them and its failure in `turn`. */
async function receive(page, shown, turn, body, signal) {
  const began = performance.now();
  const failWith = ({ status = null, code = null, hop = null, message }) => { turn.failure = { status, code, hop, message }; };
  try {
    for await (const { data } of events(`playground${query({ profile: turn.profile })}`, body, signal, (response) => { turn.id = response.headers.get("x-request-id"); })) {
      if (data?.error) failWith(data.error);
      const piece = data?.choices?.[0]?.delta?.content;
      if (!piece) continue;
      turn.times.push((performance.now() - began) / 1000);
      turn.said += piece;
      shown.said.append(piece);
      write(shown.facts, t("First token after {s}", { s: duration(turn.times[0]) }));
    }
  } catch (error) {
    failWith(signal.aborted ? { message: t("Stopped.") } : error);
    turn.id ??= error.id ?? null;
  }
  turn.all = (performance.now() - began) / 1000;
  await finish(page, shown, turn);
}

/** Show the times of a turn that has ended, and why it failed. */
async function finish(page, { facts, item }, { times, id, all, failure }) {
  const spread = times.length > 1 ? times.at(-1) - times[0] : 0;
  const link = id && el("a", { href: `#/requests/${encodeURIComponent(id)}` }, t("Show the request"));
  facts.replaceChildren([
    times.length > 0 && t("First token after {s}", { s: duration(times[0]) }),
    times.length > 0 && plural(times.length, "piece"),
    spread > 0 && t("{n} a second", { n: ((times.length - 1) / spread).toFixed(0) }),
    all !== null && t("in all {s}", { s: duration(all) }),
  ].filter(Boolean).join(" · "), " ", link ?? "");
  if (failure) item.append(failed(failure, failure.code && id && await reasonOf(page, id)));
}

/** The error of an answer: its status, code and hop, what to do, and what the code means. */
function failed({ status, code, hop, message }, reason) {
  const what = [status, code].filter(Boolean).join(" ");
  return el("div.failed", { role: "alert" },
    what && el("p", {}, el("b", {}, what), hop && t(" at {hop}", { hop })), happened(reason?.case || documentedCode(code, hop), message, reason?.names, reason?.kind),
    reason?.retry_after_s && el("p", {}, t("It asks the client to wait {s}.", { s: duration(reason.retry_after_s) })),
    reason?.advice,
    code && codeLinks(code, hop));
}
