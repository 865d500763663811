// The texts of the page in the language of the reader: English as the code has it, Chinese by the table of zh.js.

const COOKIE = "gatepass_language";
const chosen = document.cookie.split("; ").find((pair) => pair.startsWith(`${COOKIE}=`))?.split("=")[1];

/** "en" or "zh": the one that the reader chose, else that of the browser. */
export const language = chosen ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
const { TEXTS } = language === "zh" ? await import("./zh.js") : { TEXTS: {} };
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

/** Return what gatepass says of an error or a step: a member such as `action`, or the Chinese one beside it. */
export function said(document, name) {
  return document?.[language === "zh" ? `${name}_zh` : name] ?? "";
}
