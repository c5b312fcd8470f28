"""Prometheus' text format 0.0.4, and the kinds of metrics that are said in it.  No clock, no I/O.

    # HELP kimi_proxy_retries_total Attempts after the first one.
    # TYPE kimi_proxy_retries_total counter
    kimi_proxy_retries_total{provider="kimi",model="default"} 3

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

Labels = tuple[str, ...]
"""The values of a family's labels, in its order."""


class Counter:
    """Sums that only ever grow, one for each combination of labels."""

    kind = "counter"

    def __init__(self, name: str, help: str, labels: Labels = ()) -> None:
        self.name = name
        self.help = help
        self.labels = labels
        self.values: dict[Labels, float] = {} if labels else {(): 0}

    def add(self, labels: Labels = (), amount: float = 1) -> None:
        """Count; what would make the sum smaller counts as nothing."""
        self.values[labels] = self.values.get(labels, 0) + max(amount, 0)

    def samples(self) -> Iterator[str]:
        """Its lines."""
        return _samples(self.name, self.labels, self.values)


class Gauge:
    """Values of this moment: all of a family are given together."""

    kind = "gauge"

    def __init__(self, name: str, help: str, labels: Labels = (), *, kind: str = "gauge") -> None:
        """`kind`: "counter" for sums that somebody else keeps."""
        self.name = name
        self.help = help
        self.labels = labels
        self.kind = kind
        self.values: Mapping[Labels, float] = {}

    def set(self, value: float | None) -> None:
        """The value of a family without labels; None: there is none."""
        self.values = {} if value is None else {(): value}

    def set_all(self, values: Mapping[Labels, float]) -> None:
        """The values of all combinations of labels; what is not among them is gone."""
        self.values = values

    def samples(self) -> Iterator[str]:
        """Its lines."""
        return _samples(self.name, self.labels, self.values)


class _Distribution(Struct):
    counts: list[int]
    """For each bucket how many fell into it alone; the last one is that of everything larger."""
    sum: float = 0.0


class Histogram:
    """How often values up to each of some bounds were seen."""

    kind = "histogram"

    def __init__(self, name: str, help: str, bounds: tuple[float, ...], labels: Labels = ()) -> None:
        self.name = name
        self.help = help
        self.labels = labels
        self.bounds = bounds
        self._distributions: dict[Labels, _Distribution] = {}
        if not labels:
            self._begin(())

    def observe(self, value: float, labels: Labels = ()) -> None:
        """Count a value; a negative one, which only a clock that was set can bring about, counts as 0."""
        distribution = self._distributions.get(labels) or self._begin(labels)
        distribution.counts[bisect_left(self.bounds, value)] += 1
        distribution.sum += max(value, 0)

    def samples(self) -> Iterator[str]:
        """Its lines."""
        bounds = [_number(bound) for bound in (*self.bounds, math.inf)]
        for values, distribution in self._distributions.items():
            said = _pairs(self.labels, values)
            comma = "," if said else ""
            total = 0
            for bound, count in zip(bounds, distribution.counts, strict=True):
                total += count
                yield f'{self.name}_bucket{{{said}{comma}le="{bound}"}} {total}'
            braced = f"{{{said}}}" if said else ""
            yield f"{self.name}_sum{braced} {_number(distribution.sum)}"
            yield f"{self.name}_count{braced} {total}"

    def _begin(self, labels: Labels) -> _Distribution:
        distribution = self._distributions[labels] = _Distribution([0] * (len(self.bounds) + 1))
        return distribution


Family = Counter | Gauge | Histogram


def exposition(families: Iterable[Family]) -> bytes:
    """What `GET /metrics` answers."""
    lines: list[str] = []
    for family in families:
        help = family.help.replace("\\", "\\\\").replace("\n", "\\n")
        lines += (f"# HELP {family.name} {help}", f"# TYPE {family.name} {family.kind}", *family.samples())
    return "\n".join([*lines, ""]).encode()


class Names:
    """The first `most` different names; each further one is "other", so that clients can't make labels without end."""

    OTHER = "other"

    def __init__(self, most: int, max_chars: int = 128) -> None:
        self._most = most
        self._max_chars = max_chars
        self._known: set[str] = set()

    def __getitem__(self, name: str) -> str:
        if name in self._known:
            return name
        if len(self._known) >= self._most or len(name) > self._max_chars:
            return self.OTHER
        self._known.add(name)
        return name


def _samples(name: str, labels: Labels, values: Mapping[Labels, float]) -> Iterator[str]:
    for given, value in values.items():
        said = _pairs(labels, given)
        yield f"{name}{{{said}}} {_number(value)}" if said else f"{name} {_number(value)}"


def _pairs(labels: Labels, values: Labels) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(labels, values, strict=True))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(int(value))  # 1 for True
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else repr(value)
