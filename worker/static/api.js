// The gateway's HTTP API.  No key is kept here: who has logged in has a cookie, which scripts can't read.

const TIMEOUT = 15_000;

/** An answer that is none; `message` is for people.  `status` is 0 where nobody answered. */
export class ApiError extends Error {
  constructor(status, message, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }

  get needsKey() {
    return this.status === 401 || this.code === "dashboard_not_allowed";
  }

  /** What to say where the answer is missing; that a key is needed is said once, at the top. */
  get problem() {
    return this.needsKey ? null : this.message;
  }
}

/** Ask `path`; the response, if it is a good one.  Parameters without a value are left out. */
export async function ask(path, { method = "GET", parameters = {}, body = undefined, timeout = TIMEOUT } = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value != null && value !== "");
  const query = new URLSearchParams(given).toString();
  let response;
  try {
    response = await fetch(query ? `${path}?${query}` : path, {
      method,
      body: body && JSON.stringify(body),
      headers: body && { "content-type": "application/json" },
      cache: "no-store",
      signal: timeout ? AbortSignal.timeout(timeout) : undefined,
    });
  } catch (error) {
    throw new ApiError(0, error.name === "TimeoutError" ? "The gateway does not answer." : "The gateway can't be reached.");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** Ask for JSON. */
export async function get(path, parameters = {}) {
  return (await ask(path, { parameters })).json();
}

/** Whether a key is needed, and who has logged in: `{ required, logged_in, client, fingerprint }`. */
export function whoAmI() {
  return get("/api/login");
}

/** Log in; the key is forgotten as soon as it was sent. */
export async function logIn(key) {
  return (await ask("/api/login", { method: "POST", body: { key } })).json();
}

export async function logOut() {
  await ask("/api/logout", { method: "POST" });
}

/** Load a file to disk.  A link would say nothing of an error. */
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

/** Where the live events are. */
export function socketUrl() {
  const url = new URL("/ws", location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  return url;
}

async function refusal(response) {
  try {
    const { message, code } = (await response.json()).error;
    return new ApiError(response.status, message, code);
  } catch {
    return new ApiError(response.status, `The gateway answered with ${response.status}.`);
  }
}
