// The dashboard's composition root: events and answers go to the state, the state to the views.
//
//     WebSocket ── events ──▶ Live ──▶ LiveView, tiles           at most once a frame, and once a second
//     HTTP ── /api/status, /api/providers, /api/stats, /api/streams ──▶ the other views, when due

import { get, socketUrl } from "./api.js";
import { KeyDialog, showConnection } from "./connection.js";
import { CostsView } from "./costs.js";
import { byId, showProblem } from "./dom.js";
import * as format from "./format.js";
import { HistoryView } from "./history.js";
import { LiveView } from "./live.js";
import { ProvidersView } from "./providers.js";
import { ServiceView } from "./service.js";
import { Feed } from "./socket.js";
import { Live } from "./state.js";
import { startTheme } from "./theme.js";
import { TrendsView } from "./trends.js";

// Seconds.  Progress comes once a second while there are streams: silence then means that we are behind; else it may be
// mere peace, and the service is asked.
const SILENCE = 4;
const PEACE = 15;
const GIVE_UP = 12;
const STATUS_EVERY = 5;
const SUMS_EVERY = 60;
const SUMS_AFTER_END = 3;
// Sums of a long history take their time: of ten seconds, we have the service reckon for one at most.
const SUMS_REST = 9;
const CAUGHT_UP_SHOWN = 5;

const now = () => performance.now() / 1000;

class Dashboard {
  constructor() {
    const failed = (error) => error.needsKey && this.#needKey();
    this.live = new Live();
    this.liveView = new LiveView(this.live, { now, failed });
    this.providers = new ProvidersView();
    this.trends = new TrendsView({ failed });
    this.history = new HistoryView({ failed });
    this.costs = new CostsView({ failed });
    this.service = new ServiceView();
    this.keys = new KeyDialog({ entered: () => this.start(), left: () => location.reload() });
    this.feed = new Feed({ url: socketUrl, heard: (event) => this.#heard(event), changed: () => this.#changed() });
    this.due = { status: 0, sums: 0, sync: Infinity };
    this.behind = null;
    this.locked = false;
    this.away = false;
    this.names = new Set();
    this.rested = 0;
    this.asking = { status: false, sums: false };
    byId("reconnect").onclick = () => this.feed.start();
    document.addEventListener("visibilitychange", () => this.#visible());
    setInterval(() => this.#tick(), 1000);
    this.start();
  }

  /** Everything anew, with the key as it is. */
  start() {
    this.locked = false;
    this.due = { status: 0, sums: 0, sync: Infinity };
    this.history.first();
    this.feed.start();
    this.#tick();
  }

  // What comes

  #heard(event) {
    this.live.apply(event, now());
    switch (event.type) {
      case "hello":
        this.behind = null;
        if (this.away) this.due.status = this.due.sums = 0;
        this.away = false;
        break;
      case "dropped":
        this.behind = { text: `Behind: ${format.exact(event.count)} events lost`, until: Infinity };
        this.due.sync = 0;
        break;
      case "stream_end":
        this.#sumsSoon();
        break;
      case "provider_degraded":
      case "provider_recovered":
      case "worker_restarted":
      case "config_reloaded":
        this.due.status = 0;
        break;
    }
    if (this.live.incomplete) this.due.sync = Math.min(this.due.sync, now());
    this.#draw();
    this.#connection();
    if (this.due.sync <= now() || this.due.status <= now()) this.#work();
  }

  #changed() {
    if (this.feed.state === "waiting") {
      this.due.status = 0;  // it may be the key
      this.away = true;
    }
    this.#connection();
    this.#tick();
  }

  #visible() {
    if (document.hidden || this.locked) return;
    this.due = { status: 0, sums: 0, sync: now() };
    if (this.feed.state === "waiting") this.feed.start();
    this.#tick();
  }

  #needKey() {
    if (!this.locked) {
      this.locked = true;
      this.feed.stop();
      this.keys.open();
    }
    this.#connection();
  }

  // What is to be done, and when

  #tick() {
    this.live.tick(now(), this.live.known && this.feed.state === "open");
    if (this.behind && this.behind.until < now()) this.behind = null;
    this.#watchSilence();
    this.#work();
    this.#connection();
    this.#draw();
  }

  #work() {
    if (this.locked || document.hidden) return;
    if (this.due.sync <= now() && this.feed.state === "open") this.#sync();
    for (const what of ["status", "sums"]) {
      if (this.due[what] <= now() && !this.asking[what]) this.#ask(what);
    }
  }

  #watchSilence() {
    if (this.feed.state !== "open" || document.hidden) return;
    const { silence } = this.feed;
    const expected = this.live.streams.size > 0 ? SILENCE + this.live.streams.size / 1000 : PEACE;
    if (silence < expected) {
      if (this.behind?.silent) this.behind = null;
      return;
    }
    if (this.live.streams.size > 0) {
      this.behind = { text: `Behind: nothing heard for ${format.span(silence)}`, until: Infinity, silent: true };
      if (silence > expected + GIVE_UP) {
        this.away = true;
        this.feed.start();
      }
    }
    if (this.due.sync === Infinity) this.due.sync = now();
  }

  /** A new picture of the live streams, and with it the end of being behind. */
  async #sync() {
    this.due.sync = Infinity;
    const sync = this.live.beginSync();
    const heard = this.feed.lastHeard;
    try {
      const snapshot = await get("/api/sessions/active");
      this.live.replace(snapshot, now(), sync);
      const silent = this.feed.lastHeard === heard && this.feed.silence > SILENCE;
      if (silent && snapshot.active > 0) {
        this.due.sync = now() + SILENCE;
      } else if (silent) {
        this.due.sync = now() + PEACE;
        if (this.behind?.silent) this.behind = null;
      } else if (this.behind) {
        this.behind = { text: "Live again: caught up", until: now() + CAUGHT_UP_SHOWN };
      }
      this.#sumsSoon();
    } catch (error) {
      this.live.pending = null;
      this.due.sync = now() + SILENCE;
      if (error.needsKey) this.#needKey();
      else this.behind = { text: `Behind: ${error.message}`, until: Infinity, silent: true };
    }
    this.#draw();
  }

  /** One at a time of each: an answer that is late is not asked for again. */
  async #ask(what) {
    this.asking[what] = true;
    await (what === "status" ? this.#status() : this.#sums());
    this.asking[what] = false;
  }

  #sumsSoon() {
    this.due.sums = Math.min(this.due.sums, Math.max(now() + SUMS_AFTER_END, this.rested));
  }

  async #status() {
    this.due.status = now() + STATUS_EVERY;
    try {
      const status = await get("/api/status");
      showProblem(byId("service-problem"), null);
      this.service.show(status);
      this.providers.showStatus(status);
      this.#know(status.providers.map(({ name }) => name));
      this.history.setClients(status.clients);
      this.history.setModels(status.models.map(({ name }) => name));
    } catch (error) {
      if (error.needsKey) this.#needKey();
      else showProblem(byId("service-problem"), error.message);
    }
    this.#draw();
  }

  async #sums() {
    const began = now();
    this.due.sums = began + SUMS_EVERY;
    const others = [this.trends.refresh(), this.costs.refresh(), this.history.refresh()];
    try {
      const answer = await get("/api/providers");
      showProblem(byId("providers-problem"), null);
      this.providers.showDay(answer);
      this.#know(answer.providers.map(({ provider }) => provider));
    } catch (error) {
      if (error.needsKey) this.#needKey();
      else showProblem(byId("providers-problem"), error.message);
    }
    await Promise.all(others);
    this.rested = now() + SUMS_REST * (now() - began);
  }

  /** Providers that can be chosen: those of the configuration, and those of the history. */
  #know(names) {
    for (const name of names) this.names.add(name);
    const all = [...this.names].sort();
    this.trends.setProviders(all);
    this.history.setProviders(all);
  }

  // What is seen

  #connection() {
    if (this.locked) {
      showConnection("lost", "A key is needed", { enterKey: true });
    } else if (this.feed.state === "connecting") {
      showConnection("connecting", "Connecting…");
    } else if (this.feed.state === "waiting") {
      const seconds = Math.max(1, Math.ceil((this.feed.retryAt - performance.now()) / 1000));
      showConnection("lost", `Connection lost, retry in ${seconds} s`, { reconnect: true });
    } else if (this.behind) {
      const caughtUp = this.behind.until < Infinity;
      showConnection(caughtUp ? "caught-up" : "behind", this.behind.text, { reconnect: !caughtUp });
    } else {
      showConnection("live", "Live");
    }
  }

  #draw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = null;
      this.liveView.render();
      this.service.tiles({ active: this.live.active, rate: this.live.rate });
    });
  }
}

startTheme();
new Dashboard();
