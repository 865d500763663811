// When the pieces of a stream arrived.

import { el } from "./dom.js";
import { duration, plural } from "./format.js";
import { t } from "./texts.js";

/** The reads of a stream in words. `began` is the begin of the attempt, and `now` the time while it runs, else null, both in seconds of the request. */
export function arrivalsText({ reads, first_s: first, last_s: last, longest_gap: gap }, began, now) {
  const silence = now === null ? 0 : Math.max(0, now - began - last);
  // The story of a running attempt may have its silence as the gap.
  const shown = gap && !(silence && gap.at_s === last) ? gap : null;
  return el("p.arrivals", {},
    t("{reads} from {first} to {last}", { reads: plural(reads, "read"), first: duration(began + first), last: duration(began + last) }), t(". "),
    silence > 0 && el("b", {}, t("Silent for {s}. ", { s: duration(silence) })),
    shown && t("Longest gap: {length} at {at}.", { length: duration(shown.length_s), at: duration(began + shown.at_s) }),
    el("span.muted", {}, t(" Times count from the start of the request.")));
}
