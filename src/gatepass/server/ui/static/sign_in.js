// Asks for a key. The tab keeps it until its user signs out or closes the tab.

import { call, signedInKey } from "./api.js";
import { el, write } from "./dom.js";
import { languageSwitch, t } from "./texts.js";

const REFUSED = {
  invalid_api_key: t("gatepass does not know this key, or it has expired."),
  role_not_allowed: t("The role caller cannot sign in. Create a key with gatepass keys new --name NAME --role viewer --write, then run gatepass reload. For a token, the row in access.jwt needs role: viewer."),
  forbidden_host: t("The host name of this page is not one that gatepass accepts: add it to server.ui_hosts."),
  forbidden_origin: t("The origin of this page is not that of gatepass: a proxy in front of it must pass on Host."),
};
/** Why a key does not sign in, by the error code. */

export const refused = (error) => REFUSED[error.code] ?? error.message;

/** Ask for a key, below the reason `text`. */
export function signIn(text, enter) {
  const key = el("input", { id: "key", type: "password", autocomplete: "off", spellcheck: "false", required: true, pattern: "[ -~]+", "aria-describedby": "why" });
  const why = el("p", { id: "why", role: "status" }, text);
  const button = el("button", { type: "submit" }, t("Sign in"));
  const submit = async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      signedInKey.set(key.value.trim().replace(/^bearer\s+/i, ""));
      const answer = await call("GET", "session");
      key.value = "";
      enter(answer);
    } catch (error) {
      signedInKey.set(null);
      key.value = "";
      button.disabled = false;
      why.className = "failed";
      write(why, refused(error));
      key.focus();
    }
  };
  return el("section.sign-in", {},
    el("img", { src: "icon.svg", alt: "", width: 44, height: 44 }),
    el("h1", {}, "gatepass"),
    el("form", { onsubmit: submit },
      el("label", { for: "key" }, t("Key or token of a viewer or an admin")), key, why, button),
    el("p.muted", {}, t("The operator of gatepass creates a key with {command} and then runs {reload}.", { command: "gatepass keys new --name NAME --role viewer --write", reload: "gatepass reload" })),
    el("p.muted", {}, t("This tab keeps the key until you sign out or close it.")),
    el("button.quiet", languageSwitch.attributes, languageSwitch.name));
}
