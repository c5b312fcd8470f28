// The live streams, as the snapshots and events of the service tell of them.  Pure: the caller gives the time, in
// seconds of a clock that is never set.

const SECONDS_KEPT = 120;

/** A live stream: what a `stream_start` and an entry of a snapshot have in common, and how far it has come. */
function stream(told, now) {
  return {
    id: told.id,
    model: told.model,
    provider: told.provider,
    session: told.session,
    worker: told.worker,
    dialect: told.dialect,
    streaming: told.streaming,
    contextSize: told.context_size,
    promptEstimate: told.prompt_estimate ?? 0,
    tokens: told.tokens ?? 0,
    bytes: told.received_bytes ?? 0,
    rate: told.tokens_per_second ?? 0,
    began: now - (told.age ?? 0),
    moved: now - (told.idle ?? 0),
  };
}

export class Live {
  constructor() {
    this.streams = new Map();
    /** There has been a snapshot: before, no streams may as well be many. */
    this.known = false;
    /** Tokens a second of the whole service, `{ at, rate }`, of the last two minutes. */
    this.rates = [];
    /** Progress told of a stream that nobody knows: a snapshot is needed. */
    this.incomplete = false;
    this.pending = null;
  }

  /** A snapshot has been asked for: what happens until it comes may be missing in it, or be undone by it. */
  beginSync() {
    this.pending = { started: new Map(), ended: new Set() };
    return this.pending;
  }

  /** The snapshot has come: what it says holds, but for what happened since `sync` began. */
  replace(snapshot, now, sync = null) {
    const before = this.streams;
    this.streams = new Map();
    for (const told of snapshot.sessions) {
      if (sync?.ended.has(told.id)) continue;
      const fresh = stream(told, now);
      const known = before.get(told.id);
      // Its own clock goes on, so that an age never jumps back by what the answer took to come.
      if (known) fresh.began = Math.min(known.began, fresh.began);
      this.streams.set(told.id, fresh);
    }
    for (const [id, started] of sync?.started ?? []) {
      if (!this.streams.has(id)) this.streams.set(id, before.get(id) ?? started);
    }
    this.known = true;
    this.incomplete = false;
    if (sync === this.pending) this.pending = null;
  }

  /** One event; those that are about no stream change nothing. */
  apply(event, now) {
    switch (event.type) {
      case "hello":
        if (event.sessions) this.replace(event.sessions, now);
        else this.incomplete = true;
        break;
      case "stream_start":
        if (!this.streams.has(event.id)) this.streams.set(event.id, stream(event, now));
        this.pending?.started.set(event.id, this.streams.get(event.id));
        break;
      case "stream_end":
        this.streams.delete(event.id);
        this.pending?.started.delete(event.id);
        this.pending?.ended.add(event.id);
        break;
      case "progress":
        this.#progress(event, now);
        break;
    }
  }

  #progress(event, now) {
    for (const told of event.streams) {
      const known = this.streams.get(told.id);
      if (!known) {
        this.incomplete = true;
        continue;
      }
      if (told.tokens !== known.tokens || told.received_bytes !== known.bytes) known.moved = now;
      known.tokens = told.tokens;
      known.bytes = told.received_bytes;
      known.rate = told.tokens_per_second;
    }
    this.rates.push({ at: now, rate: event.tokens_per_second });
  }

  /** Once a second: what is too old is forgotten, and where nothing runs the rate is 0, if that is `heard`. */
  tick(now, heard) {
    if (heard && this.streams.size === 0 && (this.rates.at(-1)?.at ?? -1) < now - 0.9) this.rates.push({ at: now, rate: 0 });
    while (this.rates.length && this.rates[0].at < now - SECONDS_KEPT) this.rates.shift();
  }

  /** Oldest first. */
  list() {
    return [...this.streams.values()].sort((a, b) => a.began - b.began);
  }

  /** Those for which nothing has come in so many seconds. */
  stale(seconds, now) {
    return [...this.streams.values()].filter((one) => now - one.moved >= seconds);
  }

  /** Live streams; null: not known. */
  get active() {
    return this.known ? this.streams.size : null;
  }

  get rate() {
    if (!this.known) return null;
    let sum = 0;
    for (const one of this.streams.values()) sum += one.rate;
    return sum;
  }
}

/** How full a stream's context is: tokens, share, and whether that is good, a warning or bad; null: not known. */
export function contextUse(one) {
  if (!one.contextSize) return null;
  const tokens = one.promptEstimate + one.tokens;
  const share = tokens / one.contextSize;
  return { tokens, share, kind: share < 0.6 ? "good" : share < 0.85 ? "warn" : "bad" };
}
