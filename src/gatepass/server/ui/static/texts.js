// The texts of the page in the language of the reader: English as the code has it, Chinese by the tables of zh.js.

const COOKIE = "gatepass_language";
const chosen = document.cookie.split("; ").find((pair) => pair.startsWith(`${COOKIE}=`))?.split("=")[1];

/** "en" or "zh": the one that the reader chose, else that of the browser. */
export const language = chosen ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
const { TEXTS, ADVICE } = language === "zh" ? await import("./zh.js") : { TEXTS: {}, ADVICE: [] };
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

/** Return what gatepass says of an error: a member such as `action`, or the Chinese one beside it. */
export function said(error, name) {
  return error?.[language === "zh" ? `${name}_zh` : name] ?? "";
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
