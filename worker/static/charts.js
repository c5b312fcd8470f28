// Charts over time, drawn by hand: lines or stacked bars, with a marker for pointer and arrow keys.

import { el, setAttribute, setText } from "./dom.js";
import { tick, time } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 180;
const PAD = { top: 10, right: 12, bottom: 22, left: 56 };

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** A round number from `most` on, and the step of the lines below it: of what is counted, a whole number. */
export function scale(most, counted = false) {
  if (!(most > 0)) return { top: 1, step: counted ? 1 : 0.5 };
  const magnitude = 10 ** Math.floor(Math.log10(most / 3));
  const steps = [1, 2, 2.5, 5, 10].map((part) => part * magnitude);
  const step = steps.find((one) => one * 4 >= most * 0.999 && (!counted || Number.isInteger(one)));
  return { top: Math.ceil(most / step - 0.001) * step, step };
}

/** The labels of `range` seconds from `from` on, `[at, text]`: at most `count`, on round local times. */
export function ticks(from, range, count) {
  const steps = [10, 30, 60, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800];
  const step = steps.find((one) => range / one <= count) ?? steps.at(-1);
  const offset = new Date(from * 1000).getTimezoneOffset() * 60;
  const found = [];
  for (let at = Math.ceil((from - offset) / step) * step + offset; at <= from + range; at += step) found.push([at, tick(at, range)]);
  return found;
}

export class Chart {
  /**
   * `series`: `{ key, name, kind }`, where `kind` chooses the colour; `shape`: "line" or "bars", which are stacked;
   * `format` says a value, `label` the moment of a point; `axis` is another one than that of local time (`ticks`).
   */
  constructor(place, { title, series, shape, format, empty = "Nothing in this time.", label = time, axis = ticks }) {
    Object.assign(this, { series, shape, format, label, axis });
    this.points = [];
    this.marked = null;
    this.readout = el("p", { class: "readout" });
    this.svg = svg("svg", { height: HEIGHT, tabindex: 0, role: "img", "aria-label": title });
    this.empty = el("p", { class: "empty over", hidden: true }, empty);
    const legend = el("ul", { class: "legend" }, ...series.map(({ name, kind }) =>
      el("li", {}, el("span", { class: `swatch ${kind}`, "aria-hidden": "true" }), name)));
    this.place = el("figure", { class: "chart" },
      el("figcaption", {}, el("h3", {}, title), this.readout), this.svg, this.empty,
      ...(series.length > 1 ? [legend] : []));
    place.append(this.place);
    this.title = title;
    this.svg.onpointermove = (event) => this.#mark(this.#nearest(event.offsetX));
    this.svg.onpointerleave = () => this.#mark(null);
    // What changes each second is read out to nobody but those who stand there.
    this.svg.onfocus = () => setAttribute(this.readout, "aria-live", "polite");
    this.svg.onblur = () => {
      setAttribute(this.readout, "aria-live", null);
      this.#mark(null);
    };
    this.svg.onkeydown = (event) => this.#key(event);
    new ResizeObserver(() => this.#draw()).observe(this.place);
  }

  /** `points`: `{ at, [key]: value or null }`, in their order; `width`: seconds that each stands for. */
  show(points, { from, range, width = 0 }) {
    Object.assign(this, { points, from, range, width });
    if (this.marked != null && this.marked >= points.length) this.marked = null;
    this.#draw();
  }

  #draw() {
    const width = this.place.clientWidth;
    if (!width || this.range == null) return;
    this.inner = Math.max(40, width - PAD.left - PAD.right);
    const stacked = this.shape === "bars";
    const most = Math.max(0, ...this.points.map((point) => {
      const values = this.series.map(({ key }) => point[key] ?? 0);
      return stacked ? values.reduce((sum, value) => sum + value, 0) : Math.max(...values);
    }));
    const { top, step } = scale(most, stacked);
    this.y = (value) => PAD.top + (HEIGHT - PAD.top - PAD.bottom) * (1 - value / top);
    this.svg.setAttribute("width", width);
    this.svg.replaceChildren(...this.#grid(top, step), ...(stacked ? this.#bars() : this.#lines()));
    this.rule = svg("g", { class: "rule" });
    this.svg.append(this.rule);
    const some = this.points.some((point) => this.series.some(({ key }) => point[key] != null && (!stacked || point[key])));
    this.empty.hidden = some;
    this.svg.setAttribute("aria-label", `${this.title}: ${some ? this.#summary() : "nothing in this time"}`);
    this.#mark(this.marked);
  }

  #x(at) {
    return PAD.left + (this.inner * (at - this.from)) / this.range;
  }

  #grid(top, step) {
    const right = PAD.left + this.inner;
    const made = [];
    for (let value = 0; value <= top * 1.001; value += step) {
      const y = Math.round(this.y(value)) + 0.5;
      made.push(svg("line", { class: value === 0 ? "axis" : "grid", x1: PAD.left, x2: right, y1: y, y2: y }));
      made.push(svg("text", { class: "tick", x: PAD.left - 8, y: y + 4, "text-anchor": "end" }, this.format(value)));
    }
    for (const [at, text] of this.axis(this.from, this.range, Math.max(2, Math.floor(this.inner / 80)))) {
      const x = this.#x(at);
      const anchor = x < PAD.left + 16 ? "start" : x > right - 16 ? "end" : "middle";
      made.push(svg("text", { class: "tick", x, y: HEIGHT - 5, "text-anchor": anchor }, text));
    }
    return made;
  }

  #lines() {
    const made = [];
    for (const { key, kind } of this.series) {
      const known = this.points.filter((point) => point[key] != null);
      const places = known.map((point) => [this.#x(point.at + this.width / 2), this.y(point[key])]);
      const path = places.map(([x, y], at) => `${at ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
      if (path) made.push(svg("path", { class: `line ${kind}`, d: path }));
      if (places.length < 40) {
        for (const [cx, cy] of places) made.push(svg("circle", { class: `dot ${kind}`, cx, cy, r: 2.5 }));
      }
    }
    return made;
  }

  #bars() {
    const wide = (this.inner * this.width) / this.range;
    const gap = wide > 4 ? Math.min(3, wide / 4) : 0.5;
    const made = [];
    for (const point of this.points) {
      let below = 0;
      const left = Math.max(PAD.left, this.#x(point.at));
      const right = Math.min(PAD.left + this.inner, this.#x(point.at + this.width));
      for (const { key, kind } of this.series) {
        const value = point[key] ?? 0;
        if (value <= 0) continue;
        const [y, end] = [this.y(below + value), this.y(below)];
        below += value;
        const size = { width: Math.max(1, right - left - gap), height: Math.max(1, end - y - (below > value ? 1 : 0)) };
        made.push(svg("rect", { class: `bar ${kind}`, x: left + gap / 2, y, ...size, rx: Math.min(2, wide / 6) }));
      }
    }
    return made;
  }

  #nearest(x) {
    const at = this.from + ((x - PAD.left) / this.inner) * this.range;
    let best = null;
    this.points.forEach((point, index) => {
      const distance = Math.abs(point.at + this.width / 2 - at);
      if (best == null || distance < best.distance) best = { index, distance };
    });
    return best?.index ?? null;
  }

  #key(event) {
    const last = this.points.length - 1;
    const from = this.marked ?? (event.key === "ArrowLeft" ? last + 1 : -1);
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: last }[event.key];
    if (to == null || last < 0) return;
    event.preventDefault();
    this.#mark(Math.min(last, Math.max(0, to)));
  }

  #mark(index) {
    this.marked = index;
    const point = index == null ? null : this.points[index];
    if (!point || !this.rule) {
      this.rule?.replaceChildren();
      setText(this.readout, this.points.length ? this.#summary() : "");
      return;
    }
    const x = this.#x(point.at + this.width / 2);
    this.rule.replaceChildren(svg("line", { x1: x, x2: x, y1: PAD.top, y2: HEIGHT - PAD.bottom }));
    setText(this.readout, `${this.label(point.at)} · ${this.#say(point)}`);
  }

  #say(point) {
    return this.series.map(({ key, name }) => `${name} ${point[key] == null ? "–" : this.format(point[key])}`).join(" · ");
  }

  /** In words: the newest values of lines, the sums of bars. */
  #summary() {
    const latest = {};
    for (const { key } of this.series) {
      const values = this.points.map((point) => point[key]).filter((value) => value != null);
      latest[key] = this.shape === "bars" ? values.reduce((sum, value) => sum + value, 0) : values.at(-1);
    }
    return `${this.shape === "bars" ? "in all" : "latest"} · ${this.#say(latest)}`;
  }
}
