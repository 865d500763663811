// The requests of this page to gatepass, below the path of the page.

/** An answer of gatepass that is an error object, or no answer at all. */
export class ApiError extends Error {
  constructor(status, { message, code = null }) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The key that this tab signed in with, null without one. The browser drops it with the tab. */
export const signedInKey = {
  get: () => sessionStorage.getItem("gatepass_key"),
  set: (key) => (key === null ? sessionStorage.removeItem("gatepass_key") : sessionStorage.setItem("gatepass_key", key)),
};

async function send(method, path, body, signal, etag = null) {
  const key = signedInKey.get();
  const headers = { ...(etag && { "if-none-match": etag }), ...(key !== null && { authorization: `Bearer ${key}` }) };
  const options = { method, signal, cache: "no-store", credentials: "same-origin", headers };
  if (body !== undefined) {
    headers["content-type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(`api/${path}`, options);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, { message: "gatepass cannot be reached." });
  }
  if (response.ok || response.status === 304) return response;
  const document = await response.json().catch(() => null);
  const error = document?.error ?? { message: `gatepass answered ${response.status}.` };
  throw new ApiError(response.status, error);
}

/** Return the JSON of an answer. Raises ApiError. */
export async function call(method, path, body, signal) {
  const response = await send(method, path, body, signal);
  return response.status === 204 ? {} : response.json();
}

/** Return `{etag, data}` of a GET. `data` is null if it still has this ETag. Raises ApiError. */
export async function poll(path, etag, signal) {
  const response = await send("GET", path, undefined, signal, etag);
  return { etag: response.headers.get("etag"), data: response.status === 304 ? null : await response.json() };
}

/** Yield the events of a POST as `{event, data}`, as they arrive. Raises ApiError. */
export async function* events(path, body, signal) {
  const response = await send("POST", path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value.replaceAll("\r", "");
    const frames = text.split("\n\n");
    text = frames.pop();
    for (const frame of frames) {
      const lines = frame.split("\n").map((line) => line.match(/^(\w+): ?(.*)$/)).filter(Boolean);
      const data = lines.filter(([, name]) => name === "data").map(([, , value]) => value).join("\n");
      if (data) yield { event: lines.find(([, name]) => name === "event")?.[2] ?? "message", data: JSON.parse(data) };
    }
  }
}

/** The query of the values that are set, with its `?`. */
export function query(values) {
  const set = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return set.length ? `?${new URLSearchParams(set)}` : "";
}

/** The link to the list of the requests that match. */
export const requestsOf = (filters) => `#/requests${query(filters)}`;
