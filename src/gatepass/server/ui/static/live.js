// Asks gatepass again and again for what a view shows, while the view is open and the tab is visible.
//
// A view is `function show(page)`. `page.signal` aborts when it is left, and its `parameter` and `filters` come from the hash.
// `page.call(method, path, body)` resolves to the JSON of `api/PATH`, and raises ApiError.
// `page.kept` is what the view had kept by `page.keep(save)` when the language changed.
// `page.listen({paths, on})` calls `on(...documents)` with the JSON of `GET api/PATH` for each of `paths()`: at once, and within
// two seconds after a change of one.

import { poll } from "./api.js";

const EVERY_S = 2;
const LONGEST_WAIT_S = 30;

/** Listen until `signal` aborts. Returns a function that asks at once. `state` receives `{is: "live"}`, `{is: "paused"}` or `{is: "lost", waitS, retry}`.
 * `end(error)` is called if gatepass refuses the key: then nothing is tried again. */
export function listen({ paths, on, state, end, signal }) {
  let timer = null;
  const known = new Map(); // the last answer of each path
  let waitS = EVERY_S;
  let turn = 0; // of the newest try: the answer of an older one is dropped

  const ask = async () => {
    clearTimeout(timer);
    if (signal.aborted || document.hidden) return;
    const own = ++turn;
    const asked = paths();
    const answers = await Promise.all(asked.map((path) => poll(path, known.get(path)?.etag, signal))).catch((error) => ({ error }));
    if (signal.aborted || own !== turn || document.hidden) return;
    if (answers.error) {
      if ([401, 403].includes(answers.error.status)) return end(answers.error);
      state({ is: "lost", waitS, retry: ask });
      timer = setTimeout(ask, waitS * 1000);
      waitS = Math.min(LONGEST_WAIT_S, waitS * 2);
      return;
    }
    waitS = EVERY_S;
    timer = setTimeout(ask, EVERY_S * 1000);
    state({ is: "live" });
    const changed = answers.map((answer, i) => answer.data !== null && known.set(asked[i], answer)).some(Boolean);
    if (changed) on(...asked.map((path) => known.get(path).data));
  };

  document.addEventListener("visibilitychange", () => document.hidden ? state({ is: "paused" }) : ask(), { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  ask();
  return ask;
}
