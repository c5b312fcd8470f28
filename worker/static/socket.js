// The WebSocket: connects, and connects again when it is lost, after a pause that grows.

const FIRST_PAUSE = 0.5;
const LAST_PAUSE = 15;
const HANDSHAKE_TIMEOUT = 10_000;
const SERVICE_RESTART = 1012;

/** The seconds to wait before attempt `number` (from 0), with a little chance, so that not all pages come at once. */
export function pause(number, chance = Math.random()) {
  return Math.min(LAST_PAUSE, FIRST_PAUSE * 2 ** number) * (0.75 + chance / 2);
}

export class Feed {
  /**
   * `heard(event)` gets each event; `changed(feed)` is told of each new `state`: "connecting", "open", "waiting" (until
   * `retryAt`, in milliseconds of `performance.now()`), or "stopped".
   */
  constructor({ url, heard, changed }) {
    this.url = url;
    this.heard = heard;
    this.changed = changed;
    this.state = "stopped";
    this.retryAt = 0;
    this.lastHeard = 0;
    this.attempts = 0;
  }

  /** Connect now, whatever there was. */
  start() {
    this.#drop();
    this.#set("connecting");
    const socket = new WebSocket(this.url());
    this.socket = socket;
    this.timer = setTimeout(() => socket.close(), HANDSHAKE_TIMEOUT);
    socket.onmessage = ({ data }) => this.#message(socket, data);
    socket.onclose = ({ code }) => this.#closed(socket, code);
  }

  /** Leave, and stay away. */
  stop() {
    this.#drop();
    this.#set("stopped");
  }

  /** How long nothing has been heard, in seconds. */
  get silence() {
    return (performance.now() - this.lastHeard) / 1000;
  }

  #message(socket, data) {
    if (socket !== this.socket) return;
    const event = JSON.parse(data);
    this.lastHeard = performance.now();
    if (event.type === "hello") {
      clearTimeout(this.timer);
      this.attempts = 0;
      this.heard(event);
      this.#set("open");
    } else {
      this.heard(event);
    }
  }

  #closed(socket, code) {
    if (socket !== this.socket) return;
    this.#drop();
    const seconds = code === SERVICE_RESTART ? Math.random() / 4 : pause(this.attempts);
    this.attempts += 1;
    this.retryAt = performance.now() + seconds * 1000;
    this.timer = setTimeout(() => this.start(), seconds * 1000);
    this.#set("waiting");
  }

  #drop() {
    clearTimeout(this.timer);
    const socket = this.socket;
    this.socket = null;
    socket?.close();
  }

  #set(state) {
    this.state = state;
    this.changed(this);
  }
}
