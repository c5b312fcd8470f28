"""A soak's report: the ledger, the faults, what the processes held and whether it grew; as text and as a picture."""

import platform
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

from fakes.plot import Line, Marks, Panel, draw
from fakes.soak.faults import History
from fakes.soak.ledger import Ledger
from fakes.soak.plan import WEIGHTS
from fakes.soak.samples import MIB, Held, Sample, Slope, lives, theil_sen
from fakes.soak.seen import Seen

JUDGED = 600.0
"""A soak of fewer seconds says nothing about growth: what a service fills once, it fills then."""
LIFE = 60.0
"""So many seconds a worker must have lived, and is not looked at before a third of that is over."""
MEMORY_LIMIT = 24.0
"""MiB an hour."""
FDS_LIMIT = 40.0
THREADS_LIMIT = 8.0
"""…and an hour.  What leaks once for each request, stream, kill or reload leaks thousands, or hundreds, an hour."""
LISTED = 40


@dataclass(frozen=True)
class Growth:
    """Whether something grows.  `limit` in the same unit, an hour."""

    what: str
    unit: str
    first: float
    last: float
    slope: Slope | None
    limit: float | None
    """None: it depends on what was injected last, how much of its memory a worker shares with others."""

    @property
    def is_flat(self) -> bool:
        return self.slope is None or self.limit is None or self.slope.per_hour <= self.limit


@dataclass
class Report:
    """Everything that is known at the end.  Times are epoch seconds."""

    command: str
    seed: int
    ledger: Ledger
    history: History
    samples: list[Sample]
    seen: list[Seen]
    began: float
    ended: float
    state: list[str]
    growth: list[Growth] = field(init=False)

    def __post_init__(self) -> None:
        self.growth = list(self._grown())

    @property
    def good(self) -> bool:
        """Nothing is unexplained, left over, or grows."""
        grows = self.ended - self.began >= JUDGED and not all(one.is_flat for one in self.growth)
        return not (self.ledger.unexplained or self.state or grows)

    # --- what was held

    def _grown(self) -> Iterator[Growth]:
        """Over the second half."""
        middle = (self.began + self.ended) / 2
        late = [s for s in self.samples if middle <= s.at <= self.ended and s.supervisor and s.workers]

        def of(what: str, unit: str, value: Callable[[Sample], float | None], limit: float | None) -> Growth:
            found = [(s.at, told, len(s.workers)) for s in late if (told := value(s)) is not None]
            values = [told for _, told, _ in found]
            tenth = max(1, len(values) // 10)
            ends = (median(values[:tenth]), median(values[-tenth:])) if values else (0.0, 0.0)
            slope = theil_sen([(at, told) for at, told, _ in found], [count for _, _, count in found])
            return Growth(what, unit, *ends, slope, limit)

        yield of("supervisor, RSS", "MiB", lambda s: _supervisor(s).rss / MIB, MEMORY_LIMIT)
        yield of("supervisor, descriptors", "", lambda s: _supervisor(s).fds, FDS_LIMIT)
        yield of("supervisor, threads", "", lambda s: _supervisor(s).threads, THREADS_LIMIT)
        yield of("a worker (mean), RSS", "MiB", lambda s: _mean(s, "rss") / MIB, MEMORY_LIMIT)
        yield of("a worker (mean), descriptors", "", lambda s: _mean(s, "fds"), FDS_LIMIT)
        yield of("a worker (mean), threads", "", lambda s: _mean(s, "threads"), THREADS_LIMIT)
        yield of("all of them, PSS", "MiB", _pss_mib, None)

    def lives(self) -> tuple[int, float, float] | None:
        """Of workers that lived for long: how many, and the median and the longest life's growth in MiB an hour."""
        found = []
        for points in lives(self.samples).values():
            born = points[0][0]
            if points[-1][0] - born >= LIFE:
                slope = theil_sen([(at, held.rss / MIB) for at, held in points if at >= born + LIFE / 3])
                if slope is not None:
                    found.append((points[-1][0] - born, slope.per_hour))
        return (len(found), median(slope for _, slope in found), max(found)[1]) if found else None

    # --- text

    def text(self) -> str:
        """For a terminal, and as Markdown."""
        ledger = self.ledger
        head = [
            f"`{self.command}`: seed {self.seed}, {self.ended - self.began:.0f} s, on "
            f"{time.strftime('%Y-%m-%d', time.gmtime(self.began))}, Python {platform.python_version()}, "
            f"Linux {platform.release()}."
        ]
        kinds = [
            [f"… {kind}", f"{count:,}"] for kind, count in sorted(ledger.answered.items(), key=lambda one: -one[1])
        ]
        rows = [["requests sent", f"{ledger.requests:,}"], *kinds]
        rows += [
            ["streams begun = terminal records of them", f"{ledger.begun:,} = {ledger.recorded_once:,}"],
            ["records of streams that were refused, or cancelled, before they began", f"{ledger.refused:,}"],
            *([f"… {status}, of both", f"{count:,}"] for status, count in sorted(ledger.ends.items())),
            ["tokens told by upstreams = recorded", f"{ledger.told:,} = {ledger.recorded:,}"],
            [
                "tokens counted by the service: read by clients ≤ recorded ≤ written by upstreams",
                f"{ledger.least:,} ≤ {ledger.counted:,} ≤ {ledger.most:,}",
            ],
            ["… answers of megabytes, not read to the end, within the same bounds", f"{ledger.large:,}"],
            ["longest time without a complete answer", self._silence()],
            ["left over at the end", "nothing" if not self.state else f"{len(self.state)} things"],
            ["**unexplained**", f"**{len(ledger.unexplained)}**"],
        ]
        parts = [*head, table(["", ""], rows), self._faults(), self._memory()]
        if self.state:
            parts.append("Left over:\n" + "\n".join(f"* {one}" for one in self.state))
        if ledger.unexplained:
            lines = [f"* seed {self.seed}, {one.trace}: {one.what}" for one in ledger.unexplained[:LISTED]]
            more = len(ledger.unexplained) - LISTED
            parts.append("Unexplained:\n" + "\n".join([*lines, *([f"* and {more} more"] if more > 0 else [])]))
        return "\n\n".join(parts)

    def _silence(self) -> str:
        good = sorted(seen.ended for seen in self.seen if seen.kind == "completed" and seen.ask.client != "looks")
        times = [self.began, *good]  # at the end, nobody asks any more
        length, at = max(((later - earlier, earlier) for earlier, later in pairwise(times)), default=(0.0, 0.0))
        during = [done.injection.fault for done in self.history.done if done.began <= at + length and at <= done.ended]
        return f"{length:.2f} s" + (f" ({', '.join(dict.fromkeys(during))})" if during else "")

    def _faults(self) -> str:
        found = defaultdict(list)
        for done in self.history.done:
            found[done.injection.fault].append(done.recovery)
        rows = [
            [fault, str(len(times)), f"{median(times):.2f} s", f"{max(times):.2f} s"]
            for fault in WEIGHTS
            if (times := found.get(fault))
        ]
        return table(["injected", "times", "until all workers served, median", "at most"], rows)

    def _memory(self) -> str:
        rows = []
        for one in self.growth:
            unit = f" {one.unit}" if one.unit else ""
            told = one.slope
            slope = "–" if told is None else f"{told.per_hour:+.1f} ({told.low:+.1f} to {told.high:+.1f}){unit}/h"
            judged = self.ended - self.began >= JUDGED
            verdict = "" if not judged or one.limit is None else "flat" if one.is_flat else "GROWS"
            limit = "" if one.limit is None else f"{one.limit:g}"
            rows.append([one.what, f"{one.first:.1f}{unit}", f"{one.last:.1f}{unit}", slope, limit, verdict])
        header = ["second half", "at its begin", "at its end", "slope (half of all pairs)", "limit", ""]
        text = table(header, rows)
        if lived := self.lives():
            text += (
                f"\n\nOf {lived[0]} workers that lived for a minute or more the RSS changed by {lived[1]:+.1f} MiB an "
                f"hour (median), that of the one that lived longest by {lived[2]:+.1f}."
            )
        return text

    def injections(self) -> str:
        """What was done, and when, a line each."""
        lines = []
        for done in self.history.done:
            when, took = done.began - self.began, done.recovery
            lines.append(f"{done.began:.3f} {when:8.2f} s  {done.injection.fault}: {done.detail} ({took:.2f} s)\n")
        return "".join(lines)

    # --- picture

    def plot(self) -> str:
        """Memory, descriptors and threads over time, and when what was injected."""
        alive = [sample for sample in self.samples if sample.supervisor]

        def line(name: str, value, samples: list[Sample], hole: float = 12.0) -> Line:
            return Line(name, [(sample.at - self.began, value(sample)) for sample in samples], hole)

        with_workers = [sample for sample in alive if _workers(sample)]
        shared = [sample for sample in with_workers if _pss_mib(sample) is not None]
        memory = [line("supervisor", lambda s: _supervisor(s).rss / MIB, alive)]
        memory.append(line("a worker (mean)", lambda s: _mean(s, "rss") / MIB, with_workers))
        panels = [Panel("Resident memory (RSS)", "MiB", memory)]
        if shared:
            whole = line("all of them", lambda s: _pss_mib(s) or 0.0, shared, hole=30.0)
            panels.append(Panel("Memory of supervisor and workers together (PSS)", "MiB", [whole]))
        for title, what in (("Descriptors", "fds"), ("Threads", "threads")):
            lines = [line("supervisor", lambda s, what=what: getattr(_supervisor(s), what), alive)]
            lines.append(line("a worker (mean)", lambda s, what=what: _mean(s, what), with_workers))
            panels.append(Panel(title, "open" if what == "fds" else "alive", lines))
        panels.append(Panel("Workers", "alive", [line("workers", lambda s: len(s.workers), alive)]))
        rows = [
            Marks(fault, [done.began - self.began for done in self.history.done if done.injection.fault == fault])
            for fault in WEIGHTS
        ]
        return draw(panels, rows, self.ended - self.began)


def _supervisor(sample: Sample) -> Held:
    return sample.held.get(sample.supervisor or 0, Held())


def _workers(sample: Sample) -> list[Held]:
    return [sample.held[pid] for pid in sample.workers if pid in sample.held]


def _mean(sample: Sample, what: str) -> float:
    values = [getattr(held, what) for held in _workers(sample)]
    return sum(values) / len(values)


def _pss_mib(sample: Sample) -> float | None:
    shares = [held.pss for held in sample.held.values()]
    return None if not shares or None in shares else sum(share for share in shares if share is not None) / MIB


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, its columns aligned for a terminal too."""
    widths = [max(3, *(len(row[column]) for row in [header, *rows])) for column in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in lines)


def write_docs(path: Path, report: Report) -> None:
    """Put the report between the file's marks."""
    text = path.read_text()
    new = re.sub(
        r"(<!-- soak -->\n).*?(<!-- /soak -->)", lambda m: f"{m[1]}{report.text()}\n{m[2]}", text, flags=re.DOTALL
    )
    path.write_text(new)
