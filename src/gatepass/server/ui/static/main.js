// Starts the page: the session, the header, and the view that the hash names.

import { ApiError, call, signedInKey } from "./api.js";
import { doctor } from "./doctor.js";
import { el, set, svg, write } from "./dom.js";
import { errorCode } from "./error_code.js";
import { listen } from "./live.js";
import { models } from "./models.js";
import { overview } from "./overview.js";
import { requests } from "./requests.js";
import { refused, signIn } from "./sign_in.js";
import { story } from "./story.js";
import { kept, languageSwitch, t } from "./texts.js";

const VIEWS = [
  { path: /^$/, title: t("Overview"), show: overview, link: "#/" },
  { path: /^requests$/, title: t("Requests"), show: requests, link: "#/requests" },
  { path: /^requests\/(.+)$/, title: t("Request"), show: story, within: "#/requests" },
  { path: /^models$/, title: t("Models"), show: models, link: "#/models" },
  { path: /^doctor$/, title: t("Doctor"), show: doctor, link: "#/doctor", role: "admin" },
  { path: /^errors\/(.+)$/, title: t("Error"), show: errorCode, within: "#/requests" },
];

start(document.getElementById("main"), document.getElementById("top"), document.getElementById("notice"), document.getElementById("said"));

async function start(main, top, notice, said) {
  let session = null;
  let leaving = new AbortController();

  const say = (text) => {
    said.textContent = "";
    setTimeout(() => write(said, text), 50);
  };
  const enter = (answer) => {
    session = answer;
    showHeader(top, session, signOut);
    show();
  };
  const ask = (why = "") => {
    signedInKey.set(null);
    leaving.abort();
    session = null;
    top.replaceChildren();
    top.hidden = true;
    notice.hidden = true;
    document.title = `${t("Sign in")} · gatepass`;
    main.replaceChildren(signIn(why, enter));
    main.querySelector("input")?.focus();
  };
  const signOut = () => ask(t("You signed out."));
  const end = (error) => ask(refused(error));

  function show() {
    if (!session) return;
    const [path, search = ""] = location.hash.replace(/^#\/?/, "").split("?");
    const view = VIEWS.find(({ path: pattern }) => pattern.test(path)) ?? VIEWS[0];
    leaving.abort();
    leaving = new AbortController();
    const { signal } = leaving;
    notice.hidden = true;
    document.title = `${view.title} · gatepass`;
    for (const link of top.querySelectorAll("nav a")) set(link, { "aria-current": link.getAttribute("href") === (view.link ?? view.within) && "page" });
    top.querySelector(".menu")?.setAttribute("aria-expanded", "false");
    set(top.querySelector(".state"), { hidden: true });
    main.replaceChildren();
    const page = {
      main,
      session,
      signal,
      say,
      parameter: decodeURIComponent(view.path.exec(path)?.[1] ?? ""),
      filters: Object.fromEntries(new URLSearchParams(search)),
      isAdmin: isAdmin(session),
      call: (method, route, body) => call(method, route, body, signal),
      title: (text) => { document.title = `${text} · gatepass`; },
      fail: (error) => {
        if (signal.aborted || error.name === "AbortError") return;
        if (error instanceof ApiError && error.status === 401) end(error);
        else if (error instanceof ApiError) main.append(problem(error));
        else throw error;
      },
      kept: kept.saved,
      keep: (save) => { kept.save = save; },
      listen: (options) => listen({ ...options, signal, end, state: (state) => showState(state, top, notice) }),
    };
    Object.assign(kept, { saved: null, save: () => null });
    Promise.resolve(view.show(page)).catch(page.fail);
  }

  write(document.querySelector(".skip"), t("Skip to the content"));
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the hash names the view
    main.focus();
  });
  addEventListener("hashchange", () => {
    show();
    scrollTo(0, 0);
    main.focus({ preventScroll: true });
  });
  try {
    const answer = await call("GET", "session");
    if (answer.signed_in) enter(answer);
    else ask();
  } catch (error) {
    if (signedInKey.get() !== null && [401, 403].includes(error.status)) end(error);
    else main.replaceChildren(problem(error));
  }
}

function isAdmin(session) {
  return session.signed_in.role === "admin";
}

/** What an error says, with a link to the page of its code. */
function problem(error) {
  return el("p.problem", { role: "alert" },
    error.message, " ",
    error.code && el("a", { href: `#/errors/${encodeURIComponent(error.code)}` }, error.code));
}

/** Say in the header that the data are live, and in a line of its own that they are not. */
function showState(state, top, notice) {
  const mark = top.querySelector(".state");
  set(mark, { hidden: false, "data-is": state.is });
  write(mark.lastChild, { live: t("Live"), paused: t("Paused"), lost: t("Not connected") }[state.is]);
  notice.hidden = state.is !== "lost";
  if (notice.hidden) return;
  notice.replaceChildren(
    t("The connection is lost. What you see is the last state. The next try is in {s} s. ", { s: state.waitS }),
    el("button.quiet", { type: "button", onclick: state.retry }, t("Try now")));
}

function showHeader(top, session, signOut) {
  const links = VIEWS.filter(({ link, role }) => link && (!role || isAdmin(session))).map(({ link, title }) => el("li", {}, el("a", { href: link }, title)));
  const menu = el("button.menu.quiet", {
    type: "button",
    "aria-expanded": "false",
    "aria-controls": "views",
    onclick: () => set(menu, { "aria-expanded": menu.getAttribute("aria-expanded") === "true" ? "false" : "true" }),
  }, t("Menu"));
  top.hidden = false;
  top.replaceChildren(
    el("a.brand", { href: "#/", "aria-label": t("gatepass, overview") }, el("img", { src: "icon.svg", alt: "", width: 22, height: 22 }), "gatepass"),
    menu,
    el("nav", { id: "views", "aria-label": t("Views") }, el("ul", {}, links)),
    el("div.session", {},
      el("span.state", { hidden: true }, el("i", { "aria-hidden": "true" }), ""),
      el("span.muted.replica", { title: t("gatepass's version, and the machine") }, `${session.version} · ${session.replica}`),
      el("button.quiet", languageSwitch.attributes, languageSwitch.name),
      el("button.quiet.theme", { type: "button", "aria-label": t("Light or dark"), title: t("Light or dark"), onclick: changeTheme },
        svg("svg", { viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true" },
          svg("circle", { cx: 8, cy: 8, r: 6.25, fill: "none", stroke: "currentColor", "stroke-width": 1.5 }),
          svg("path", { d: "M8 1.75a6.25 6.25 0 0 1 0 12.5z", fill: "currentColor" }))),
      session.login && el("button.quiet", { type: "button", onclick: signOut, title: t("Signed in as {name} ({role})", { name: session.signed_in.name, role: t(session.signed_in.role) }) }, t("Sign out"))));
}

/** Change between light and dark, until the page is loaded again. */
function changeTheme() {
  const root = document.documentElement;
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
}
