"""Prometheus' text format as a strict reader takes it: whatever promtool complains about is an assertion here."""

import re
from collections.abc import Mapping

from msgspec import Struct

Sample = tuple[str, frozenset[tuple[str, str]]]
"""A sample's name, and its labels."""

_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)", re.ASCII)
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)', re.ASCII)
_ESCAPED = {r"\\": "\\", r"\"": '"', r"\n": "\n"}


class Exposition(Struct):
    """What an answer of `/metrics` says."""

    types: dict[str, str]
    samples: dict[Sample, float]

    def value(self, name: str, /, **labels: str) -> float:
        """The one sample with exactly these labels."""
        return self.samples[name, frozenset(labels.items())]

    def sum(self, name: str, /, **labels: str) -> float:
        """The sum of all samples that have at least these labels; 0 if there are none."""
        return sum(self.by(name, **labels).values())

    def by(self, name: str, /, *given: str, **labels: str) -> dict[tuple[str, ...], float]:
        """The sums by the labels that are given, of all samples that have at least `labels`."""
        sums: dict[tuple[str, ...], float] = {}
        for (found, pairs), value in self.samples.items():
            said = dict(pairs)
            if found == name and labels.items() <= said.items():
                key = tuple(said[label] for label in given) if given else tuple(sorted(said.values()))
                sums[key] = sums.get(key, 0) + value
        return sums

    def counters(self) -> Mapping[Sample, float]:
        """Everything that must never go down."""
        kinds = {"counter", "histogram"}
        return {sample: value for sample, value in self.samples.items() if self.types[family_of(sample[0])] in kinds}

    def family_names(self) -> set[str]:
        """What queries may name."""
        return {name for name, _ in self.samples} | set(self.types)


def family_of(name: str) -> str:
    """A sample's family.  None of ours ends like this otherwise."""
    return re.sub(r"_(bucket|sum|count)$", "", name)


def parse(text: bytes) -> Exposition:
    """Read an exposition; each mistake in it is an `AssertionError`."""
    types: dict[str, str] = {}
    helped: set[str] = set()
    samples: dict[Sample, float] = {}
    current = ""
    assert text.endswith(b"\n")
    for line in text.decode().split("\n")[:-1]:
        if line.startswith("# HELP "):
            name = line.split(" ")[2]
            assert name not in helped, f"{name} comes twice"
            helped.add(name)
        elif line.startswith("# TYPE "):
            _, _, current, kind = line.split(" ")
            assert current in helped
            assert current not in types
            assert kind in ("counter", "gauge", "histogram")
            assert current.endswith("_total") == (kind == "counter"), current
            types[current] = kind
        else:
            found = _SAMPLE.fullmatch(line)
            assert found, line
            name, labels, value = found.groups()
            assert name == current or (types[current] == "histogram" and family_of(name) == current), line
            sample = (name, frozenset(_labels(labels or "")))
            assert sample not in samples, f"{line} comes twice"
            samples[sample] = float(value.replace("Inf", "inf"))
    exposition = Exposition(types, samples)
    _check_histograms(exposition)
    return exposition


def _labels(text: str) -> list[tuple[str, str]]:
    found = list(_LABEL.finditer(text))
    assert "".join(match[0] for match in found) == text, text
    assert len({match[1] for match in found}) == len(found), text
    return [(match[1], re.sub(r"\\.", lambda escape: _ESCAPED[escape[0]], match[2])) for match in found]


def _check_histograms(exposition: Exposition) -> None:
    """Buckets are cumulative, and the last of them is the count."""
    series: dict[Sample, list[tuple[float, float]]] = {}
    for (name, labels), value in exposition.samples.items():
        if name.endswith("_bucket"):
            bound = float(dict(labels)["le"].replace("Inf", "inf"))
            rest = frozenset(pair for pair in labels if pair[0] != "le")
            series.setdefault((family_of(name), rest), []).append((bound, value))
    for (name, labels), buckets in series.items():
        counts = [count for _, count in sorted(buckets)]
        assert buckets == sorted(buckets)
        assert counts == sorted(counts)
        assert buckets[-1][0] == float("inf")
        assert counts[-1] == exposition.samples[f"{name}_count", labels]
        assert (f"{name}_sum", labels) in exposition.samples
