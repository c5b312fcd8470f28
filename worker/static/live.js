// The section of live streams: their table, the cancels, and the rate of the last two minutes.

import { ask } from "./api.js";
import { Chart } from "./charts.js";
import { byId, el, setAttribute, setText, showProblem } from "./dom.js";
import * as format from "./format.js";
import { contextUse } from "./state.js";
import { Table, longText, twoLines } from "./table.js";

const SHOWN = 200;
const CONFIRM_TIME = 4000;
const WINDOW = 120;

/**
 * A button that has to be pressed twice: what it ends can't be brought back.  `label()` is what it says; `what` is added
 * for those who don't see where it stands.
 */
function askTwice(button, label, what, act) {
  let timer = null;
  const say = (text) => {
    setText(button, text);
    setAttribute(button, "aria-label", what && `${text} ${what}`);
  };
  const calm = () => {
    clearTimeout(timer);
    timer = null;
    button.classList.remove("sure");
    say(label());
  };
  button.onclick = async () => {
    if (timer == null) {
      button.classList.add("sure");
      say("Really cancel?");
      timer = setTimeout(calm, CONFIRM_TIME);
      return;
    }
    calm();
    await act();
  };
  button.onblur = () => timer != null && calm();
  return { refresh: () => timer == null && say(label()) };
}

function ago(seconds) {
  return seconds < 1 ? "now" : `${format.span(seconds)} ago`;
}

function agoTicks(until, range, count) {
  const step = count > 6 ? 20 : 40;
  return Array.from({ length: Math.floor(range / step) + 1 }, (_, at) => [until - at * step, at ? `−${at * step} s` : "now"]);
}

function gauge(cell, one) {
  const use = contextUse(one);
  if (!cell.firstElementChild) {
    cell.append(el("span", { class: "gauge" }, el("span")), el("span", { class: "gauge-text" }));
  }
  const [meter, text] = cell.children;
  meter.hidden = use == null;
  setText(text, use ? format.percent(use.share) : "–");
  if (!use) {
    cell.title = "The model has no max_context_size in the configuration.";
    return;
  }
  const said = `${format.exact(use.tokens)} of ${format.exact(one.contextSize)} tokens, estimated`;
  meter.className = `gauge ${use.kind}`;
  meter.firstElementChild.style.inlineSize = `${Math.min(100, use.share * 100)}%`;
  setAttribute(meter, "role", "meter");
  setAttribute(meter, "aria-label", "Context use");
  setAttribute(meter, "aria-valuemin", 0);
  setAttribute(meter, "aria-valuemax", one.contextSize);
  setAttribute(meter, "aria-valuenow", Math.min(use.tokens, one.contextSize));
  setAttribute(meter, "aria-valuetext", said);
  cell.title = said;
}

export class LiveView {
  /** `failed(error)` is told of what the API refused. */
  constructor(live, { now, failed }) {
    this.live = live;
    this.now = now;
    this.failed = failed;
    this.table = new Table(byId("live-table"), {
      label: "Live streams",
      empty: "No streams at the moment.",
      limit: SHOWN,
      keyOf: (one) => one.id,
      columns: [
        { title: "Model", class: "wide", fill: (cell, one) => twoLines(cell, one.model, `${one.provider} · ${one.dialect} · worker ${one.worker}`) },
        { title: "Session", class: "text", fill: (cell, one) => longText(cell, format.plain(one.session)) },
        { title: "Age", class: "number", fill: (cell, one) => setText(cell, format.span(this.now() - one.began)) },
        { title: "Tokens", class: "number", fill: (cell, one) => setText(cell, format.exact(one.tokens)) },
        { title: "Tokens/s", class: "number", fill: (cell, one) => this.#rate(cell, one) },
        { title: "Context", class: "context", fill: gauge },
        { title: "Cancel", class: "action", hideTitle: true, fill: (cell, one) => this.#button(cell, one) },
      ],
    });
    this.chart = new Chart(byId("live-chart"), {
      title: "Tokens a second, all streams",
      shape: "line",
      series: [{ key: "rate", name: "tokens/s", kind: "first" }],
      format: format.rate,
      label: (at) => ago(this.now() - at),
      axis: (from, range, count) => agoTicks(from + range, range, count),
    });
    const stale = byId("cancel-stale");
    this.staleAfter = byId("stale-after");
    this.staleAfter.onchange = () => this.render();
    this.stale = askTwice(stale, () => `Cancel stale (${this.#stale().length})`, null, () =>
      this.#cancel("/api/sessions/stale", { idle: this.staleAfter.value }));
    this.staleButton = stale;
  }

  render() {
    const now = this.now();
    const streams = this.live.list();
    setText(byId("live-count"), streams.length ? format.exact(streams.length) : "");
    if (this.live.known) this.table.show(streams);
    this.staleButton.disabled = this.#stale().length === 0;
    this.stale.refresh();
    this.chart.show(this.live.rates, { from: now - WINDOW, range: WINDOW });
  }

  #stale() {
    return this.live.stale(Number(this.staleAfter.value), this.now());
  }

  #rate(cell, one) {
    const idle = this.now() - one.moved;
    setText(cell, idle > 5 ? `idle ${format.span(idle)}` : format.rate(one.rate));
    cell.classList.toggle("idle", idle > 5);
  }

  #button(cell, one) {
    if (cell.firstElementChild) return;
    const button = el("button", { type: "button", class: "small danger" });
    const what = one.session ? `${one.model}, session ${one.session}` : one.model;
    askTwice(button, () => "Cancel", what, async () => {
      button.disabled = true;
      await this.#cancel(`/api/sessions/${encodeURIComponent(one.id)}`);
      button.disabled = false;
    }).refresh();
    cell.append(button);
  }

  async #cancel(path, parameters = {}) {
    try {
      await ask(path, { method: "DELETE", parameters });
      showProblem(byId("live-problem"), null);
    } catch (error) {
      // It has ended meanwhile: that is what was wanted.
      if (error.status === 404) return;
      showProblem(byId("live-problem"), error.problem);
      this.failed(error);
    }
  }
}
