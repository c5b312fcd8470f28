// The providers: how they are now, what they did in the last 24 hours, and how they failed.

import { badge, byId, el, facts, reconcile, setText } from "./dom.js";
import * as format from "./format.js";

const STATES = {
  healthy: ["Healthy", "good", ""],
  degraded: ["Degraded", "warn", "Too many errors of late: asked last."],
  half_open: ["Half open", "warn", "Its circuit is tried by few streams."],
  open: ["Open", "bad", "Its circuit is open: not asked."],
};

/** What is known of a provider that had nothing to do. */
const NONE = { streams: 0, failed: 0 };

function create() {
  return el("article", { class: "card provider" },
    el("header", {}, el("h3"), el("span", { class: "state" })),
    el("p", { class: "below" }),
    el("dl", { class: "facts" }),
    el("ul", { class: "chips", "aria-label": "Errors by type" }),
    el("p", { class: "last-error" }));
}

/** Counts by type, the most frequent first. */
function chips(list, types, when) {
  const pairs = Object.entries(types).sort(([, a], [, b]) => b - a);
  list.hidden = pairs.length === 0;
  list.replaceChildren(...pairs.map(([type, number]) =>
    el("li", { title: when }, `${type} `, el("b", {}, format.exact(number)))));
}

function update(card, { status, health, day }) {
  const [header, below, list, errors, last] = card.children;
  const [name, kind, meaning] = STATES[health?.state ?? status.health ?? "healthy"] ?? [health.state, "warn", ""];
  setText(header.children[0], status.name);
  header.children[1].replaceChildren(badge(name, kind));
  header.children[1].title = meaning;
  setText(below, `${status.dialect} · ${status.base_url || "built in"}`);
  below.title = status.base_url;
  const share = day?.streams ? day.failed / day.streams : null;
  facts(list, [
    ["Live", format.exact(status.active)],
    ["Streams, 24 h", format.count(day?.streams)],
    ["Failed", day?.failed ? `${format.count(day.failed)} (${format.percent(share)})` : format.count(day?.failed)],
    ["First token, p50", format.duration(day?.first_byte_p50)],
    ["First token, p95", format.duration(day?.first_byte_p95)],
    ["Tokens/s", format.rate(day?.tokens_per_second)],
    ["Cost, 24 h", format.money(day?.cost)],
  ]);
  const inWindow = health?.types ?? {};
  const recent = Object.keys(inWindow).length > 0;
  chips(errors, recent ? inWindow : (day?.errors ?? {}), recent ? "in the window of [health]" : "in the last 24 hours");
  const error = health?.last_error;
  last.hidden = !error;
  setText(last, error ? `${format.time(error.at)}: ${error.type}: ${error.message}` : "");
}

export class ProvidersView {
  constructor() {
    this.status = null;
    this.day = null;
  }

  /** The answer to `/api/status`. */
  showStatus(status) {
    this.status = status;
    this.#render();
  }

  /** The answer to `/api/providers`. */
  showDay(answer) {
    this.day = new Map(answer.providers.map((one) => [one.provider, one]));
    this.#render();
  }

  #render() {
    if (!this.status) return;
    const items = this.status.providers.map((status) => ({
      status,
      health: this.status.health[status.name],
      day: this.day && (this.day.get(status.name) ?? NONE),
    }));
    reconcile(byId("provider-cards"), items, ({ status }) => status.name, create, update);
  }
}
