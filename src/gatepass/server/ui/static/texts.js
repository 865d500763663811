// The texts of the page in the language of the reader: English as the code has it, Chinese by the tables of zh.js.

const COOKIE = "gatepass_language";
const chosen = document.cookie.split("; ").find((pair) => pair.startsWith(`${COOKIE}=`))?.split("=")[1];

/** "en" or "zh": the one that the reader chose, else that of the browser. */
export const language = chosen ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
const { TEXTS, ADVICE, ERRORS } = language === "zh" ? await import("./zh.js") : { TEXTS: {}, ADVICE: [], ERRORS: {} };
document.documentElement.lang = language === "zh" ? "zh-CN" : "en";

const OTHER = language === "zh" ? { tag: "en", name: "English" } : { tag: "zh-CN", name: "中文" };

/** `save()` returns what the view keeps when the language changes, and `saved` is what it kept before. */
export const kept = { save: () => null, saved: history.state?.saved ?? null };
history.replaceState(null, "");

/** What a button has that loads the page in the other language. The browser keeps the choice for a year. */
export const languageSwitch = {
  name: OTHER.name,
  attributes: {
    type: "button",
    lang: OTHER.tag,
    onclick: () => {
      document.cookie = `${COOKIE}=${OTHER.tag.slice(0, 2)}; SameSite=Strict; Max-Age=31536000`;
      history.replaceState({ saved: kept.save() }, "");
      location.reload();
    },
  },
};

/** Return a text of the page. `text` is a literal, and the key of TEXTS. A `{name}` in it becomes a member of `values`. */
export function t(text, values = {}) {
  return (TEXTS[text] ?? text).replace(/\{(\w+)\}/g, (place, name) => values[name] ?? place);
}

/** Return what to do after an error: `english`, or the Chinese text of the documentation with the `names` of a request. */
export function action(code, english, names) {
  return named(ERRORS[code]?.action, names) ?? english;
}

/** Return what an error code means, like `action`. */
export function meaning(code, english, names) {
  return named(ERRORS[code]?.text, names) ?? english;
}

/** The name that stands for the advice about `base_url`, if it has its version. */
const VERSIONED = "If every operation fails, correct `base_url`, then run `gatepass reload`, in Compose `docker compose -f … up -d --force-recreate gatepass`. If only this one fails, set";
/** The name that stands for the advice about the client, if the configuration chose the name of the model. */
const RENAMED = "correct the name in the client, or ";

/**
 * With the names of a request, a sentence about other places of a timeout that is known is left out, and, without a
 * model of its own, one about its name, its route or the command that calls it.
 */
function named(chinese, names) {
  if (!chinese || !names) return chinese;
  const filled = Object.entries(names).reduce((text, [placeholder, name]) => text.replaceAll(placeholder, () => name), chinese);
  const versioned = VERSIONED in names ? filled.replace(/如果所有操作都失败，改正[^。]*。如果只有此操作失败，/, "") : filled;
  const same = names["models.NAME.name"] ? versioned : versioned.replace(/如果上游不认识该模型.*$/s, "");
  const renamed = RENAMED in names ? same.replace("改正客户端中的模型名称，或", "") : same;
  const routed = names["upstreams.NAME.timeouts"] ? renamed.replace(/[^。]*`models` 下设置了[^。]*。/, "") : renamed;
  return routed.replace(/[^。]*`(?:models\.NAME\.(?:name|upstream)|gatepass doctor MODEL(?: --call)?)`[^。]*。/g, "");
}

/** Return a text of doctor or of a failed fetch in Chinese, as a whole or by its sentences, else in English. */
export function known(english) {
  for (const [pattern, chinese] of ADVICE) {
    const found = pattern.exec(english ?? "") ?? pattern.exec(`${english}.`); // a reason of a failed fetch has no full stop
    if (found) return chinese.replace(/\{(\d)\}/g, (_, place) => (/ /.test(found[place]) ? known(found[place]) : found[place])).replace(/。(?=[。；])/g, "");
  }
  const sentences = english?.split(/(?<=\.) (?=[A-Z`])/) ?? [];
  return sentences.length > 1 ? sentences.map(known).join(" ").replaceAll("。 ", "。") : english && t(english);
}
