// The gateway's HTTP API.  The key is kept for this tab only.

const KEPT = "kimi-proxy.key";
const TIMEOUT = 15_000;

/** An answer that is none; `message` is for people.  `status` is 0 where nobody answered. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }

  get needsKey() {
    return this.status === 401;
  }

  /** What to say where the answer is missing; that a key is needed is said once, at the top. */
  get problem() {
    return this.needsKey ? null : this.message;
  }
}

export function key() {
  return sessionStorage.getItem(KEPT);
}

export function setKey(value) {
  if (value) sessionStorage.setItem(KEPT, value);
  else sessionStorage.removeItem(KEPT);
}

/** Ask `path`; the response, if it is a good one.  Parameters without a value are left out. */
export async function ask(path, { method = "GET", parameters = {}, timeout = TIMEOUT } = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value != null && value !== "");
  const query = new URLSearchParams(given).toString();
  const headers = key() ? { authorization: `Bearer ${key()}` } : {};
  let response;
  try {
    response = await fetch(query ? `${path}?${query}` : path, {
      method,
      headers,
      cache: "no-store",
      signal: timeout ? AbortSignal.timeout(timeout) : undefined,
    });
  } catch (error) {
    throw new ApiError(0, error.name === "TimeoutError" ? "The gateway does not answer." : "The gateway can't be reached.");
  }
  if (!response.ok) throw new ApiError(response.status, await messageOf(response));
  return response;
}

/** Ask for JSON. */
export async function get(path, parameters = {}) {
  return (await ask(path, { parameters })).json();
}

/** Load a file to disk.  A link could not carry the key, and would say nothing of an error. */
export async function download(path, parameters) {
  const response = await ask(path, { parameters, timeout: 0 });
  const [, name] = /filename="([^"]+)"/.exec(response.headers.get("content-disposition") ?? "") ?? [];
  let blob;
  try {
    blob = await response.blob();
  } catch {
    throw new ApiError(0, "The file broke off before its end.");
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name ?? "kimi-proxy";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** Where the live events are; a WebSocket's headers are not ours to choose. */
export function socketUrl() {
  const url = new URL("/ws", location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  if (key()) url.searchParams.set("key", key());
  return url;
}

async function messageOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The gateway answered with ${response.status}.`;
  }
}
