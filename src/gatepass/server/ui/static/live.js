// One event stream for each page. It ends with the view or while the tab is hidden, and comes back by itself.

import { query } from "./api.js";

const FIRST_WAIT_S = 1;
const LONGEST_WAIT_S = 30;

/** Listen to `api/events` until `signal` aborts.
 *
 * `on(data)` receives each event with the name `view`. `state` is called with `{is: "live"}`, `{is: "paused"}` or
 * `{is: "lost", waitS, retry}`. `check()` resolves to false if the session has ended: then nothing is tried again. */
export function listen({ view, filters = {}, on, state, check, signal }) {
  let source = null;
  let timer = null;
  let waitS = FIRST_WAIT_S;

  const open = () => {
    clearTimeout(timer);
    source?.close();
    source = new EventSource(`api/events${query({ view, ...filters })}`);
    source.addEventListener("open", () => {
      waitS = FIRST_WAIT_S;
      state({ is: "live" });
    });
    source.addEventListener(view, (event) => {
      const data = JSON.parse(event.data);
      if (data !== null) on(data); // null: nothing yet
    });
    source.addEventListener("end", check); // the session may have ended; else the error that follows connects again
    source.addEventListener("error", lose);
  };
  const close = () => {
    clearTimeout(timer);
    source?.close();
    source = null;
  };
  const lose = async () => {
    close();
    if (signal.aborted) return;
    state({ is: "lost", waitS, retry: open });
    timer = setTimeout(async () => {
      if (signal.aborted || document.hidden) return;
      if (await check()) open();
    }, waitS * 1000);
    waitS = Math.min(LONGEST_WAIT_S, waitS * 2);
  };
  const follow = () => {
    if (document.hidden) {
      close();
      state({ is: "paused" });
    } else if (source === null) {
      waitS = FIRST_WAIT_S;
      open();
    }
  };

  document.addEventListener("visibilitychange", follow, { signal });
  addEventListener("pagehide", close, { signal });
  addEventListener("pageshow", (event) => event.persisted && follow(), { signal });
  signal.addEventListener("abort", close);
  if (!document.hidden) open();
}
