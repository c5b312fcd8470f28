// The charts over time, from the sums of the history.

import { get } from "./api.js";
import { Chart } from "./charts.js";
import { byId, setChoices, showProblem } from "./dom.js";
import * as format from "./format.js";

const CHARTS = [
  {
    title: "Time to first token",
    shape: "line",
    series: [
      { key: "first_byte_p50", name: "p50", kind: "first" },
      { key: "first_byte_p95", name: "p95", kind: "second" },
    ],
    format: format.duration,
  },
  {
    title: "Speed of an answer, tokens/s",
    shape: "line",
    series: [{ key: "tokens_per_second", name: "tokens/s", kind: "first" }],
    format: format.rate,
  },
  {
    title: "Errors",
    shape: "bars",
    series: [
      { key: "failed", name: "failed", kind: "bad" },
      { key: "cancelled", name: "cancelled", kind: "quiet" },
    ],
    format: format.count,
    empty: "None in this time.",
  },
  {
    title: "Tokens",
    shape: "bars",
    series: [
      { key: "completion_tokens", name: "completion", kind: "first" },
      { key: "prompt_tokens", name: "prompt", kind: "third" },
    ],
    format: format.count,
  },
];

/** Widths that make 24 to 60 groups. */
const BUCKETS = { 3600: 60, 21_600: 600, 86_400: 1800, 604_800: 14_400 };

export class TrendsView {
  constructor({ failed }) {
    this.failed = failed;
    this.range = byId("trends-range");
    this.provider = byId("trends-provider");
    this.charts = CHARTS.map((one) => new Chart(byId("charts"), one));
    this.range.onchange = this.provider.onchange = () => this.refresh();
    this.asked = 0;
  }

  setProviders(names) {
    setChoices(this.provider, names);
  }

  async refresh() {
    const asked = ++this.asked;
    const range = Number(this.range.value);
    const width = BUCKETS[range];
    try {
      const parameters = { by: "time", since: `${range}s`, bucket: `${width}s`, provider: this.provider.value };
      const answer = await get("/api/stats", parameters);
      if (asked !== this.asked) return;
      showProblem(byId("trends-problem"), null);
      this.#show(answer, range, width);
    } catch (error) {
      if (asked !== this.asked) return;
      showProblem(byId("trends-problem"), error.problem);
      this.failed(error);
    }
  }

  #show(answer, range, width) {
    const points = answer.groups.map((group) => ({ ...group, at: Number(group.key) }));
    // Whole groups: the first began before the time that was asked for, and the last has not ended yet.
    const from = Math.floor(answer.since / width) * width;
    const until = Math.ceil((answer.since + range) / width) * width;
    for (const chart of this.charts) chart.show(points, { from, range: until - from, width });
  }
}
