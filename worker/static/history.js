// The table of what was, its filters, its pages, and the same as a file.

import { download, get } from "./api.js";
import { badge, byId, el, facts, setChoices, setText, showProblem } from "./dom.js";
import * as format from "./format.js";
import { Table, longText, twoLines } from "./table.js";

/** On a phone a row takes a good part of the window. */
const pageSize = () => (matchMedia("(max-width: 640px)").matches ? 10 : 25);
const STATUSES = { completed: "good", cancelled: "quiet", failed: "bad" };
/** Fingerprint → name, of the clients that have one. */
const clientNames = new Map();
const FACTS = [
  ["Started", (one) => format.moment(one.started)],
  ["Id", (one) => one.id],
  ["Trace", (one) => one.trace],
  ["Session", (one) => format.plain(one.session)],
  ["Client", (one) => (clientNames.has(one.client) ? `${clientNames.get(one.client)} (${one.client})` : format.plain(one.client))],
  ["Model", (one) => one.model],
  ["Answered by", (one) => `${one.provider} / ${one.upstream_model}`],
  ["Asked first", (one) => one.asked_provider],
  ["Dialect", (one) => `${one.dialect}, ${one.streaming ? "streamed" : "in one piece"}`],
  ["Worker", (one) => format.exact(one.worker)],
  ["Status", (one) => outcome(one)],
  ["HTTP status", (one) => format.plain(one.http_status)],
  ["First byte", (one) => format.duration(one.first_byte)],
  ["Duration", (one) => format.duration(one.duration)],
  ["Prompt", (one) => sourced(one.prompt_tokens, one.prompt_source)],
  ["Completion", (one) => sourced(one.completion_tokens, one.completion_source)],
  ["Read from cache", (one) => format.exact(one.cache_read)],
  ["Written to cache", (one) => format.exact(one.cache_write)],
  ["Context", (one) => context(one)],
  ["Retries", (one) => format.exact(one.retries)],
  ["Cancel latency", (one) => format.duration(one.cancel_latency)],
  ["Cost", (one) => format.money(one.cost)],
];

function outcome(one) {
  return one.error_type ? `${one.status}: ${one.error_type}` : one.status;
}

function sourced(count, source) {
  return source ? `${format.exact(count)} (${source})` : format.exact(count);
}

function context(one) {
  if (!one.context_size) return "–";
  const share = ((one.prompt_tokens ?? 0) + (one.completion_tokens ?? 0)) / one.context_size;
  return `${format.percent(share)} of ${format.exact(one.context_size)}`;
}

/** The parameters that the filters stand for; local times become epoch seconds. */
export function parametersOf(form) {
  const { time, since, until, ...others } = Object.fromEntries(new FormData(form));
  const epoch = (local) => (local ? String(new Date(local).getTime() / 1000) : "");
  return time === "custom" ? { ...others, since: epoch(since), until: epoch(until) } : { ...others, since: time };
}

export class HistoryView {
  constructor({ failed }) {
    this.failed = failed;
    this.form = byId("filters");
    this.cursors = [null];
    this.next = null;
    this.asked = 0;
    this.turning = false;
    this.table = new Table(byId("history-table"), {
      label: "History",
      empty: "No streams match.",
      keyOf: (one) => one.id,
      columns: [
        { title: "Started", class: "time", fill: (cell, one) => setText(cell, format.time(one.started)) },
        { title: "Model", class: "wide", fill: (cell, one) => twoLines(cell, one.model, `${one.provider} / ${one.upstream_model}`) },
        { title: "Session", class: "text", fill: (cell, one) => longText(cell, format.plain(one.session)) },
        { title: "Status", class: "status", fill: statusCell },
        { title: "First byte", class: "number", fill: (cell, one) => setText(cell, format.duration(one.first_byte)) },
        { title: "Duration", class: "number", fill: (cell, one) => setText(cell, format.duration(one.duration)) },
        { title: "Tokens in", class: "number", fill: (cell, one) => setText(cell, format.exact(one.prompt_tokens)) },
        { title: "Tokens out", class: "number", fill: (cell, one) => setText(cell, format.exact(one.completion_tokens)) },
        { title: "Cost", class: "number", fill: (cell, one) => setText(cell, format.money(one.cost)) },
        { title: "Details", class: "action", hideTitle: true, fill: (cell, one) => this.#button(cell, one) },
      ],
    });
    this.form.onsubmit = (event) => {
      event.preventDefault();
      this.first();
    };
    this.form.onreset = () => setTimeout(() => this.#toggleCustom() || this.first());
    this.form.elements.time.onchange = () => this.#toggleCustom();
    byId("older").onclick = () => this.#turn([...this.cursors, this.next]);
    byId("newer").onclick = () => this.#turn(this.cursors.slice(0, -1));
    for (const kind of ["csv", "json"]) {
      const button = byId(`export-${kind}`);
      button.onclick = () => this.#export(button, kind);
    }
  }

  setProviders(names) {
    setChoices(this.form.elements.provider, names);
  }

  setClients(clients) {
    clientNames.clear();
    for (const { fingerprint, name } of clients) clientNames.set(fingerprint, name);
  }

  setModels(names) {
    byId("models").replaceChildren(...names.map((name) => el("option", { value: name })));
  }

  /** The newest page, by the filters as they are now. */
  first() {
    this.applied = parametersOf(this.form);
    return this.#turn([null]);
  }

  /** Something has ended: look again, where that would be seen.  Whoever is turning the page is left to it. */
  refresh() {
    if (this.cursors.length === 1 && !this.turning) return this.#turn(this.cursors);
  }

  async #turn(cursors) {
    const asked = ++this.asked;
    this.turning = true;
    try {
      const answer = await get("/api/streams", { ...this.applied, limit: pageSize(), cursor: cursors.at(-1) });
      if (asked !== this.asked) return;
      showProblem(byId("history-problem"), null);
      this.cursors = cursors;
      this.next = answer.next;
      this.table.show(answer.streams);
      byId("newer").disabled = cursors.length === 1;
      byId("older").disabled = answer.next == null;
      setText(byId("page-number"), `Page ${cursors.length}`);
    } catch (error) {
      if (asked !== this.asked) return;
      showProblem(byId("history-problem"), error.problem);
      this.failed(error);
    } finally {
      if (asked === this.asked) this.turning = false;
    }
  }

  async #export(button, kind) {
    const label = button.textContent;
    button.disabled = true;
    setText(button, "Exporting…");
    try {
      await download("/api/export", { ...this.applied, format: kind });
      showProblem(byId("history-problem"), null);
    } catch (error) {
      showProblem(byId("history-problem"), error.problem);
      this.failed(error);
    }
    setText(button, label);
    button.disabled = false;
  }

  #toggleCustom() {
    const custom = this.form.elements.time.value === "custom";
    for (const label of this.form.querySelectorAll(".custom")) label.hidden = !custom;
  }

  #button(cell, one) {
    cell.firstElementChild ??
      cell.append(el("button", { type: "button", class: "small", "aria-label": `Details of ${one.id}` }, "Details"));
    cell.firstElementChild.onclick = () => this.#details(one);
  }

  #details(one) {
    facts(byId("record-facts"), FACTS.map(([name, say]) => [name, say(one)]));
    byId("record").showModal();
  }
}

function statusCell(cell, one) {
  cell.replaceChildren(badge(one.status, STATUSES[one.status]));
  if (one.error_type) cell.append(el("span", { class: "below" }, one.error_type));
}
