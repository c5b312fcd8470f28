// A table that becomes a list of cards on a phone.  Roles are written out, as `display: block` takes them away.

import { el, reconcile, setText } from "./dom.js";
import { exact } from "./format.js";

export class Table {
  /**
   * `columns`: `{ title, class?, fill(cell, item) }`, where `fill` is called anew with each item;
   * `empty`: what is said where there is nothing.
   */
  constructor(place, { label, columns, empty, keyOf, limit = Infinity }) {
    this.columns = columns;
    this.keyOf = keyOf;
    this.limit = limit;
    this.body = el("tbody", { role: "rowgroup" });
    const heads = columns.map(({ title, class: name, hideTitle }) =>
      el("th", { role: "columnheader", scope: "col", class: name },
        hideTitle ? el("span", { class: "hidden" }, title) : title),
    );
    this.table = el("table", { role: "table", "aria-label": label },
      el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...heads)), this.body);
    this.table.hidden = true;
    this.nothing = empty;
    this.empty = el("p", { class: "empty" }, "Not known yet.");
    this.more = el("p", { class: "empty", hidden: true });
    place.append(el("div", { class: "scroll" }, this.table), this.empty, this.more);
  }

  show(items) {
    const shown = items.slice(0, this.limit);
    this.table.hidden = items.length === 0;
    this.empty.hidden = items.length > 0;
    setText(this.empty, this.nothing);
    this.more.hidden = shown.length === items.length;
    this.more.textContent = this.more.hidden ? "" : `and ${exact(items.length - shown.length)} more`;
    reconcile(this.body, shown, this.keyOf, () => this.#row(), (row, item) => this.#fill(row, item));
  }

  #row() {
    const cells = this.columns.map(({ title, class: name }) =>
      el("td", { role: "cell", class: name, "data-label": title }),
    );
    return el("tr", { role: "row" }, ...cells);
  }

  #fill(row, item) {
    this.columns.forEach(({ fill }, at) => fill(row.cells[at], item));
  }
}

/** A cell with a text of any length: what is too long is cut off, and is the cell's title. */
export function longText(cell, text) {
  if (!cell.firstElementChild) cell.append(el("span", { class: "main" }));
  const main = cell.firstElementChild;
  if (main.textContent === text) return;
  main.textContent = text;
  main.title = text;
}

/** The same, and a smaller line below it. */
export function twoLines(cell, main, below) {
  longText(cell, main);
  if (!cell.children[1]) cell.append(el("span", { class: "below" }));
  if (cell.children[1].textContent === below) return;
  cell.children[1].textContent = below;
  cell.children[1].title = below;
}
