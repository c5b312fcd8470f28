// What it has cost, by day, provider, model or session.

import { get } from "./api.js";
import { byId, el, setText, showProblem } from "./dom.js";
import * as format from "./format.js";
import { Table, longText } from "./table.js";

const SHOWN = 50;

export class CostsView {
  constructor({ failed }) {
    this.failed = failed;
    this.by = byId("costs-by");
    this.range = byId("costs-range");
    this.by.onchange = this.range.onchange = () => this.refresh();
    this.most = 0;
    this.asked = 0;
    this.table = new Table(byId("costs-table"), {
      label: "Costs",
      empty: "No streams in this time.",
      keyOf: ({ key }) => key,
      columns: [
        { title: "By", class: "wide", hideTitle: true, fill: (cell, group) => longText(cell, format.plain(group.key)) },
        { title: "Cost", class: "number", fill: (cell, group) => setText(cell, format.money(group.cost)) },
        { title: "Share", class: "share", hideTitle: true, fill: (cell, group) => this.#bar(cell, group) },
        { title: "Streams", class: "number", fill: (cell, group) => setText(cell, format.count(group.streams)) },
        { title: "Failed", class: "number", fill: (cell, group) => setText(cell, format.count(group.failed)) },
        { title: "Tokens in", class: "number", fill: (cell, group) => setText(cell, format.count(group.prompt_tokens)) },
        { title: "Tokens out", class: "number", fill: (cell, group) => setText(cell, format.count(group.completion_tokens)) },
      ],
    });
  }

  async refresh() {
    const asked = ++this.asked;
    const by = this.by.querySelector("input:checked").value;
    try {
      const answer = await get("/api/stats", { by, since: this.range.value, limit: SHOWN });
      if (asked !== this.asked) return;
      showProblem(byId("costs-problem"), null);
      this.#show(answer, by);
    } catch (error) {
      if (asked !== this.asked) return;
      showProblem(byId("costs-problem"), error.problem);
      this.failed(error);
    }
  }

  #show({ groups, totals }, by) {
    this.most = Math.max(0, ...groups.map(({ cost }) => cost ?? 0));
    this.table.show(by === "day" ? groups.toReversed() : groups);
    const unpriced = totals.streams - totals.priced;
    const parts = [`In all ${format.money(totals.cost ?? 0)} for ${format.exact(totals.streams)} streams`];
    if (by === "day") parts.push("days are UTC's");
    if (unpriced) parts.push(`${format.exact(unpriced)} of them have no price`);
    if (groups.length === SHOWN) parts.push(`only ${SHOWN} rows are shown`);
    byId("costs-note").dataset.by = by;
    setText(byId("costs-note"), totals.streams ? `${parts.join(" · ")}.` : "");
  }

  #bar(cell, group) {
    if (!cell.firstElementChild) cell.append(el("span", { class: "share-bar" }, el("span")));
    const share = this.most ? (group.cost ?? 0) / this.most : 0;
    cell.firstElementChild.hidden = share === 0;
    cell.firstElementChild.firstElementChild.style.inlineSize = `${share * 100}%`;
  }
}
