// Numbers and times as people read them. null is knowledge that gatepass does not have: a dash.

import { language, t } from "./texts.js";

const NONE = "–";

function digits(value, places) {
  return value.toLocaleString("en", { maximumFractionDigits: places, minimumFractionDigits: places });
}

/** A duration, with the unit that suits it. */
export function duration(s) {
  if (s === null || s === undefined) return NONE;
  if (s < 0.00005) return "< 0.1 ms"; // gatepass rounds to 0.1 ms
  if (s < 0.001) return `${digits(s * 1000, 2)} ms`;
  if (s < 0.01) return `${digits(s * 1000, 1)} ms`;
  if (s < 0.9995) return `${digits(s * 1000, 0)} ms`;
  if (s < 9.995) return `${digits(s, 2)} s`;
  if (s < 99.95) return `${digits(s, 1)} s`;
  return span(s);
}

/** A long time: `4 min 10 s`, `2 h 5 min`, `3 d 4 h`. */
export function span(s) {
  if (s === null || s === undefined) return NONE;
  const whole = Math.round(Math.max(0, s));
  const parts = [[86400, t("d")], [3600, t("h")], [60, t("min")], [1, t("s")]];
  const first = parts.findIndex(([size]) => whole >= size);
  if (first < 0) return `0 ${t("s")}`;
  const [size, unit] = parts[first];
  const next = parts[first + 1];
  const rest = next ? Math.floor((whole % size) / next[0]) : 0;
  return `${Math.floor(whole / size)} ${unit}${rest ? ` ${rest} ${next[1]}` : ""}`;
}

/** A countdown: `2:43`, `1:02:03`. */
export function countdown(s) {
  if (s === null || s === undefined) return NONE;
  const whole = Math.max(0, Math.floor(s));
  const pad = (value) => String(value).padStart(2, "0");
  const [h, min] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  if (h >= 48) return span(s);
  return h ? `${h}:${pad(min)}:${pad(whole % 60)}` : `${min}:${pad(whole % 60)}`;
}

export function count(value) {
  if (value === null || value === undefined) return NONE;
  if (Math.abs(value) < 100000) return digits(value, Number.isInteger(value) ? 0 : 1);
  if (Math.abs(value) < 1e6) return `${digits(value / 1000, 0)} k`;
  return `${digits(value / 1e6, 1)} M`;
}

export function size(bytes) {
  if (bytes === null || bytes === undefined) return NONE;
  if (bytes < 1024) return `${bytes} B`;
  if (bytes < 1024 * 1024) return `${digits(bytes / 1024, bytes < 10240 ? 1 : 0)} KiB`;
  return `${digits(bytes / 1048576, 1)} MiB`;
}

export function share(part, whole) {
  if (!whole) return NONE;
  const value = (100 * part) / whole;
  return `${digits(value, value > 0 && value < 10 ? 1 : 0)} %`;
}

/** A number of things. `one` is a literal: `{n} one` is a key of the Chinese texts, which have no plural. */
export function plural(value, one, many = `${one}s`) {
  return language === "zh" ? t(`{n} ${one}`, { n: count(value) }) : `${count(value)} ${value === 1 ? one : many}`;
}

/** The caller of a request, with what its token calls it. A row of `access.jwt` can have the name of a key. */
export const whoOf = ({ caller, auth, user }) => (user ? `${caller}/${user}` : auth && caller ? `${caller} (JWT)` : caller);

/** The time of day here, of an RFC 3339 text or of seconds since the epoch. */
export function time(at) {
  if (at === null || at === undefined) return NONE;
  return date(at).toLocaleTimeString("en-GB");
}

/** The name of the zone of the times here. */
export function zone(at = Date.now() / 1000) {
  return new Intl.DateTimeFormat("en-GB", { timeZoneName: "short" }).formatToParts(date(at)).find(({ type }) => type === "timeZoneName").value;
}

/** Since when, behind a state: the time today, or the day too. Nothing if it is not known. */
export function since(at) {
  return at ? t(" since {at}", { at: Date.now() / 1000 - at < 86400 ? time(at) : moment(at) }) : "";
}

/** The day, the time and its zone here. */
export function moment(at) {
  if (at === null || at === undefined) return NONE;
  return `${date(at).toLocaleDateString("en-CA")} ${time(at)} ${zone(at)}`;
}

function date(at) {
  return new Date(typeof at === "number" ? at * 1000 : at);
}
