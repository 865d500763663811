// Asks gatepass again and again for what a view shows, while the view is open and the tab is visible.
//
// A view is `function show(page)`. `page.signal` aborts when it is left, and its `parameter` and `filters` come from the hash.
// `page.call(method, path, body)` resolves to the JSON of `api/PATH`, and raises ApiError.
// `page.kept` is what the view had kept by `page.keep(save)` when the language changed.
// `page.listen({view, filters, on})` calls `on(data)` with the whole JSON of `GET api/VIEW?FILTERS`: at once, and within two
// seconds after each change.

import { poll, query } from "./api.js";

const EVERY_S = 2;
const LONGEST_WAIT_S = 30;

/** Listen until `signal` aborts. Returns a function that asks at once. `state` receives `{is: "live"}`, `{is: "paused"}` or `{is: "lost", waitS, retry}`.
 * `check()` resolves to false if the session has ended: then nothing is tried again. */
export function listen({ view, filters = {}, on, state, check, signal }) {
  let timer = null;
  let etag = null;
  let waitS = EVERY_S;
  let turn = 0; // of the newest try: the answer of an older one is dropped

  const ask = async () => {
    clearTimeout(timer);
    if (signal.aborted || document.hidden) return;
    const own = ++turn;
    const answer = await poll(`${view}${query(filters)}`, etag, signal).catch((error) => ({ error }));
    if (signal.aborted || own !== turn || document.hidden) return;
    if (answer.error) {
      if (answer.error.status === 401 && !(await check())) return;
      state({ is: "lost", waitS, retry: ask });
      timer = setTimeout(ask, waitS * 1000);
      waitS = Math.min(LONGEST_WAIT_S, waitS * 2);
      return;
    }
    waitS = EVERY_S;
    timer = setTimeout(ask, EVERY_S * 1000);
    etag = answer.etag;
    state({ is: "live" });
    if (answer.data !== null) on(answer.data);
  };

  document.addEventListener("visibilitychange", () => document.hidden ? state({ is: "paused" }) : ask(), { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  ask();
  return ask;
}
