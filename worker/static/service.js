// The service itself: tiles at the top, configuration, state, workers, and what people have to know at once.

import { badge, byId, el, facts, reconcile, setText } from "./dom.js";
import * as format from "./format.js";
import { Table, twoLines } from "./table.js";

const STATES = { serving: "good", starting: "quiet", draining: "quiet", stuck: "bad" };

const SUMMED = ["completed", "cancelled", "failed", "completion_tokens", "cost"];

export class ServiceView {
  constructor() {
    this.status = null;
    this.workers = new Table(byId("workers-table"), {
      label: "Workers",
      empty: "No workers.",
      keyOf: ({ pid }) => pid,
      columns: [
        { title: "Worker", class: "wide", fill: (cell, one) => twoLines(cell, `Worker ${one.worker}`, `pid ${one.pid}`) },
        { title: "State", class: "status", fill: (cell, one) => cell.replaceChildren(badge(one.state, STATES[one.state])) },
        { title: "Streams", class: "number", fill: (cell, one) => setText(cell, format.exact(one.streams)) },
        { title: "Connections", class: "number", fill: (cell, one) => setText(cell, format.exact(one.connections)) },
        { title: "Memory", class: "number", fill: (cell, one) => setText(cell, format.bytes(one.rss_bytes)) },
        { title: "Lag", class: "number", fill: (cell, one) => setText(cell, format.duration(one.lag)) },
        { title: "Up for", class: "number", fill: (cell, one) => setText(cell, format.span(one.uptime)) },
        { title: "Restarts", class: "number", fill: (cell, one) => setText(cell, format.exact(one.restarts)) },
      ],
    });
  }

  /** The answer to `/api/status`. */
  show(status) {
    this.status = status;
    setText(byId("version"), status.version);
    facts(byId("config-facts"), [
      ["Source", status.config_source ?? "built in"],
      ["Loaded", format.time(status.config_loaded, status.now)],
      ["Last reload", status.config_error ? badge("refused", "bad") : badge("in force", "good")],
      ...(status.config_error ? [["Problem", status.config_error]] : []),
      ["Listens on", status.bind.join(", ")],
      ["Models", format.exact(status.models.length)],
    ]);
    facts(byId("service-facts"), [
      ["Version", status.version],
      ["State", `${status.state}, up for ${format.span(status.uptime)}`],
      ["Workers", `${status.workers.filter(({ state }) => state === "serving").length} of ${status.workers_wanted} serve`],
      ["Restarts", format.exact(status.restarts)],
      ["Waiting for a limit", format.exact(status.waiting)],
      ["Token accuracy", status.token_accuracy == null ? "–" : format.percent(status.token_accuracy)],
      ["Database", status.storage.path],
      ["To be written", format.exact(status.storage.buffered)],
    ]);
    this.workers.show(status.workers);
    this.#notices(status);
  }

  /** `rate`: tokens a second now; `active`: live streams. */
  tiles({ active, rate }) {
    const hour = {};
    for (const name of this.status ? SUMMED : []) {
      hour[name] = this.status.recent.reduce((sum, minute) => sum + minute[name], 0);
    }
    const ended = hour.completed + hour.cancelled + hour.failed;
    const tiles = [
      ["Live streams", format.count(active), this.status?.waiting ? `${format.exact(this.status.waiting)} waiting` : ""],
      ["Tokens/s", format.rate(rate), "now"],
      ["Completed", format.count(hour.completed), "last hour"],
      ["Failed", format.count(hour.failed), ended ? `${format.percent(hour.failed / ended)} of the last hour` : "last hour", hour.failed ? "bad" : ""],
      ["Tokens out", format.count(hour.completion_tokens), "last hour"],
      ["Cost", format.money(hour.cost), "last hour"],
    ];
    reconcile(byId("tiles"), tiles, ([name]) => name, ([name]) => el("div", {}, el("dt", {}, name), el("dd"), el("dd", { class: "below" })),
      (tile, [, value, below, kind]) => {
        setText(tile.children[1], value);
        tile.children[1].className = kind ?? "";
        setText(tile.children[2], below);
      });
  }

  #notices(status) {
    const said = [
      status.config_error && `The newest configuration was refused; the one before it is in force. ${status.config_error}`,
      status.crash_loop && `Workers keep dying: ${status.crash_loop}`,
      status.storage.problem && `The database can't be written: ${status.storage.problem}`,
      status.storage.lost && `${format.exact(status.storage.lost)} records were lost.`,
      status.state === "draining" && "The service is stopping.",
    ].filter(Boolean);
    reconcile(byId("notices"), said, (text) => text, (text) => el("p", { class: "notice bad" }, text), () => {});
  }
}
