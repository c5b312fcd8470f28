"""From measurements to Markdown.

Of every figure the lowest of the rounds counts: what else runs on the machine only ever adds.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from measure import Cost, Measurement
from scenarios import CROWD_HZ, PACED_HZ, Scenario

PRODUCT = "kimi-proxy"
TRANSLATING = "kimi-proxy, translating"
LISTENED = "kimi-proxy, 200 listeners"
SPIKE_STREAMS = 400
"""Of 20 chunks a second each, in the spikes' figures per chunk."""
SATURATED = 0.95
"""A row that passes on less than this part of the paced chunks in time is saturated: its latencies mean nothing."""
KIB = 1024
MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """CPU time of one row to that of another in the same run, beside the same ratio of the spikes (design's facts)."""

    what: str
    scenario: str
    row: str
    base: str
    spike: float
    """Spike S3 (passes on) to nginx, or S4 (S3 that translates) to S3."""
    limit: float | None
    """What the ratio may be; None: nothing was promised."""
    whole: bool = False
    """Count the whole service, not only its workers."""


# The spikes have no keys, accounting, deadlines, logs: passing on, half as dear again as S3 is good.
_TO_NGINX = [
    Ratio(what=what, scenario=scenario, row=PRODUCT, base="nginx", spike=spike, limit=1.5 * spike, whole=whole)
    for what, scenario, spike in (("request", "json-32", 340 / 15), ("chunk", "ticked", 55 / 8))
    for whole in (False, True)
]
RATIOS = [
    *_TO_NGINX,
    Ratio(what="request", scenario="json-32", row=TRANSLATING, base=PRODUCT, spike=330 / 340, limit=None),
    Ratio(what="event", scenario="burst", row=TRANSLATING, base=PRODUCT, spike=6.1 / 3.1, limit=3.0),
    Ratio(what="chunk", scenario="ticked", row=TRANSLATING, base=PRODUCT, spike=57 / 55, limit=1.5),
    Ratio(what="request", scenario="json-32", row=LISTENED, base=PRODUCT, spike=1.0, limit=None),
    Ratio(what="chunk", scenario="ticked", row=LISTENED, base=PRODUCT, spike=1.0, limit=1.5),
]


@dataclass(frozen=True)
class Results:
    """All measurements of a run, and the best of them."""

    scenarios: dict[str, Scenario]
    measurements: list[Measurement]

    def of(self, row: str, scenario: str) -> list[Measurement]:
        """The rounds of one row and scenario."""
        return [m for m in self.measurements if m.row == row and m.scenario == scenario]

    def rows(self) -> list[str]:
        """The names of the rows, in the order in which they came."""
        return list(dict.fromkeys(m.row for m in self.measurements))

    def best_latency(self, row: str, scenario: str, which: str, rank: str) -> float | None:
        """The lowest `rank` ("p50", "p99") of `which` ("first_chunk_ms", "transit_ms")."""
        return lowest(getattr(m, which)[rank] for m in self.of(row, scenario))

    def best_cpu(self, row: str, scenario: str, whole: bool) -> float | None:
        """The lowest CPU time per unit in µs, of the workers or of the whole row."""
        costs = [m.service if whole else m.workers for m in self.of(row, scenario)]
        return lowest(cost.cpu_us for cost in costs if cost is not None)

    def errors(self, rows: Iterable[str]) -> list[str]:
        """One line for every kind of error that one of `rows` made, per scenario and round."""
        chosen = set(rows)
        return [
            f"{m.row}, {self.scenarios[m.scenario].title}, round {m.round}: {count} × {what}"
            for m in self.measurements
            if m.row in chosen
            for what, count in m.errors.items()
        ]


def lowest(values: Iterable[float | None]) -> float | None:
    """The least of the values there are."""
    return min((value for value in values if value is not None), default=None)


def main_table(results: Results) -> str:
    """The rows side by side.  Times are added to `direct`'s, whose own stand in brackets."""
    named = results.scenarios
    header = ["", f"{named['json-1'].title}: added ms p50 / p99", "added time to first chunk, ms p50 / p99"]
    header += ["added inter-chunk delay, ms p50 / p99", "CPU µs/request", "CPU µs/event", "CPU µs/chunk"]
    header += ["RSS / PSS per worker, MiB", "errors"]
    lines = []
    for row in results.rows():
        times = [
            latency_cell(results, row, "json-1", "first_chunk_ms"),
            latency_cell(results, row, "paced", "first_chunk_ms"),
            latency_cell(results, row, "paced", "transit_ms"),
        ]
        last = results.of(row, "ticked")[-1:]
        errors = sum(sum(m.errors.values()) for m in results.measurements if m.row == row)
        workers = last[0].workers if last else None
        lines.append([row, *times, *cpu_cells(results, row, False), memory_cell(workers), str(errors)])
        if row == PRODUCT:
            service = last[0].service if last else None
            cells = [f"{row}, whole service", "", "", "", *cpu_cells(results, row, True), memory_cell(service), ""]
            lines.append(cells)
    return table(header, lines)


def crowd_table(results: Results) -> str:
    """The rows under very many streams at once."""
    scenario = results.scenarios["crowd"]
    header = ["", "streams", "cut", "added inter-chunk delay, ms p50 / p99", "added time to first chunk, ms p50 / p99"]
    header += ["CPU µs/chunk", "of a core", "memory per stream, KiB RSS / PSS", "chunks/s"]
    lines = []
    for row in results.rows():
        found = results.of(row, "crowd")
        cut = sum(sum(m.errors.values()) for m in found)
        best = min(found, key=lambda m: m.core_share)
        cells = [row, f"{scenario.concurrency:,}", str(cut), latency_cell(results, row, "crowd", "transit_ms")]
        cells.append(latency_cell(results, row, "crowd", "first_chunk_ms"))
        cells.append(number(results.best_cpu(row, "crowd", whole=True)))
        cells.append(f"{best.core_share:.0%}" if best.service is not None else "")
        grown = best.growth
        cells.append(
            "" if grown is None else " / ".join(f"{grown[of] / scenario.concurrency / KIB:.1f}" for of in grown)
        )
        lines.append([*cells, f"{max(m.rate for m in found):,.0f}"])
    return table(header, lines)


def crowd_notes(results: Results) -> str:
    """How to read that table."""
    scenario = results.scenarios["crowd"]
    return (
        f"{scenario.concurrency:,} streams at once × {CROWD_HZ} chunks/s for {scenario.seconds:g} s, all begun in the "
        f"{scenario.warmup:g} s before. A stream is cut unless it is complete to its last event. Times are what a row "
        "adds to `direct`, whose own stand in brackets. CPU and memory: of the whole service; memory per stream is by "
        "how much that had grown since before the load, divided by the streams, buffers of the code included."
    )


def latency_cell(results: Results, row: str, scenario: str, which: str) -> str:
    """`p50 / p99` beyond those of `direct`."""
    cells = []
    for rank in ("p50", "p99"):
        value = results.best_latency(row, scenario, which, rank)
        base = results.best_latency("direct", scenario, which, rank)
        added = value - base if value is not None and base is not None and row != "direct" else value
        cells.append("–" if added is None else f"{added:.2f}")
    text = " / ".join(cells)
    return f"({text})" if row == "direct" else text


def cpu_cells(results: Results, row: str, whole: bool) -> list[str]:
    """CPU per request, per event and per chunk."""
    return [number(results.best_cpu(row, scenario, whole)) for scenario in ("json-32", "burst", "ticked")]


def memory_cell(cost: Cost | None) -> str:
    """RSS and PSS."""
    return "" if cost is None else f"{cost.rss_bytes / MIB:.0f} / {cost.pss_bytes / MIB:.0f}"


def number(value: float | None) -> str:
    """A figure with as many digits as it deserves."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ratio_table(results: Results) -> str:
    """CPU ratios of the same run, against the spikes'; with a verdict as the last line."""
    lines = []
    over = []
    for ratio in RATIOS:
        base = results.best_cpu(ratio.base, ratio.scenario, whole=ratio.base == "nginx")
        cost = results.best_cpu(ratio.row, ratio.scenario, ratio.whole)
        if base is None or cost is None:
            continue
        found, limit = cost / base, ratio.limit
        load = f"CPU per {ratio.what} ({results.scenarios[ratio.scenario].title})"
        rows = f"{ratio.row}{', whole service' if ratio.whole else ''} ÷ {ratio.base}"
        verdict = "" if limit is None else "within" if found <= limit else "over"
        if verdict == "over":
            over.append(f"{load}, {rows}")
        cells = [load, rows, f"{number(cost)} ÷ {number(base)} µs", number(found), number(ratio.spike)]
        lines.append([*cells, f"{found / ratio.spike:.2f}×", "" if limit is None else number(limit), verdict])
    if not lines:
        return f"No ratios: they need both nginx and {PRODUCT}, or {PRODUCT} twice, in the run."
    header = ["", "", "CPU", "ratio", "spikes' ratio", "to the spikes'", "limit", ""]
    verdict = "OVER THE LIMIT: " + "; ".join(over) if over else "within the limits"
    text = f"{table(header, lines)}\n\nVerdict: {verdict}."
    if results.scenarios["ticked"].concurrency < SPIKE_STREAMS:
        text += (
            f" (The spikes had {SPIKE_STREAMS} streams; with fewer, nginx is dearer per chunk and the ratio flatters.)"
        )
    return text


def notes(results: Results, rounds: int) -> str:
    """How to read the table, and what was odd about this run."""
    paced = results.scenarios["paced"]
    titles = {name: scenario.title for name, scenario in results.scenarios.items()}
    lines = [
        f"Lowest of {rounds} interleaved rounds of {paced.seconds:g} s. Times are what a row adds to `direct`, whose "
        f"own stand in brackets; first chunk and inter-chunk delay: {titles['paced']} streams × {PACED_HZ} chunks/s. "
        f"CPU: request at {titles['json-32']}, event at {titles['burst']}, chunk at {titles['ticked']} (the same pace, "
        f"sent on whole milliseconds). Memory: at the end of {titles['ticked']}."
    ]
    nominal = paced.concurrency * PACED_HZ
    for row in results.rows():
        rate = max((m.rate for m in results.of(row, "paced")), default=nominal)
        if rate < nominal * SATURATED:
            lines.append(f"{row} is saturated: it passed on {rate:,.0f} of {nominal:,} chunks a second.")
    return "\n".join(lines)


def table(header: list[str], lines: list[list[str]]) -> str:
    """A Markdown table, its columns aligned for a terminal too."""
    widths = [max(len(line[column]) for line in [header, *lines]) for column in range(len(header))]
    ruler = ["-" * max(3, width) for width in widths]
    return "\n".join(
        "| " + " | ".join(cell.ljust(max(3, width)) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in [header, ruler, *lines]
    )
