"""What the processes of a service hold, again and again, and whether it grows."""

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import median

import psutil

MIB = 1024 * 1024
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
AT_MOST, FEWEST = 400, 10
"""Points of a slope."""
APART = 5.0
"""Seconds between the two of a pair: nearer ones say nothing of hours."""
PSS_EVERY = 5
"""Samples: reading it holds up the process that is looked at."""


@dataclass(frozen=True)
class Held:
    """What one process, or several, hold."""

    rss: int = 0
    pss: int | None = None
    """None: not read, or not readable."""
    fds: int = 0
    threads: int = 0


@dataclass(frozen=True)
class Sample:
    """One look.  `at`: epoch seconds."""

    at: float
    supervisor: int | None
    """The pid; None while there is none."""
    workers: tuple[int, ...]
    held: dict[int, Held]


@dataclass
class Sampler:
    """Looks at a service."""

    samples: list[Sample] = field(default_factory=list)

    def look(self, supervisor: int | None, workers: tuple[int, ...]) -> None:
        """Once; takes some milliseconds."""
        pids = (*([supervisor] if supervisor is not None else []), *workers)
        with_pss = len(self.samples) % PSS_EVERY == 0
        held = {pid: found for pid in pids if (found := look_at(pid, pss=with_pss)) is not None}
        alive = supervisor if supervisor in held else None
        self.samples.append(Sample(time.time(), alive, tuple(pid for pid in workers if pid in held), held))


def look_at(pid: int, *, pss: bool) -> Held | None:
    """What a process holds; None if it is gone."""
    folder = Path(f"/proc/{pid}")
    try:
        rss = int((folder / "statm").read_text().split()[1]) * PAGE_BYTES
        if not rss:
            return None
        status = (folder / "stat").read_text().rpartition(")")[2].split()
        fds = len(os.listdir(folder / "fd"))
    except OSError:
        return None
    share = None
    if pss:
        with suppress(OSError):
            lines = (folder / "smaps_rollup").read_text().splitlines()
            share = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), None)
    return Held(rss, share, fds, int(status[17]))


@dataclass(frozen=True)
class Slope:
    """How something changed, for an hour: Theil and Sen's, the median of the slopes between all pairs of points."""

    per_hour: float
    low: float
    high: float
    """Between these are half of the pairs' slopes."""
    points: int


def theil_sen(points: list[tuple[float, float]], strata: list[int] | None = None) -> Slope | None:
    """The slope through points of time in seconds and value; None if there are too few.  Outliers don't move it.

    Pairs are of points of the same one of `strata`: how many workers there were then, which makes a difference itself.
    """
    step = -(-len(points) // AT_MOST) or 1
    chosen = list(zip(points, strata or [0] * len(points), strict=True))[::step]
    slopes = sorted(
        (y2 - y1) / (x2 - x1)
        for ((x1, y1), one), ((x2, y2), other) in combinations(chosen, 2)
        if one == other and x2 - x1 >= APART
    )
    if len(chosen) < FEWEST or not slopes:
        return None
    quarter = len(slopes) // 4
    return Slope(median(slopes) * 3600, slopes[quarter] * 3600, slopes[-quarter - 1] * 3600, len(chosen))


def lives(samples: list[Sample]) -> dict[int, list[tuple[float, Held]]]:
    """What each worker held, from its first sample to its last."""
    found: dict[int, list[tuple[float, Held]]] = {}
    for sample in samples:
        for pid in sample.workers:
            if pid in sample.held:
                found.setdefault(pid, []).append((sample.at, sample.held[pid]))
    return found


def sockets_to(pid: int, ports: set[int]) -> int:
    """How many connections a process has to these ports."""
    with suppress(psutil.NoSuchProcess):
        return sum(bool(c.raddr and c.raddr.port in ports) for c in psutil.Process(pid).net_connections("tcp"))
    return 0
