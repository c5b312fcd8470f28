"""One scenario on one row: run the load generator and read the row's CPU clocks at the window's two ends."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import procs
from rows import Row
from scenarios import Scenario

LOAD = Path(__file__).with_name("load.py")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What some processes of a row took: CPU in µs per unit of the scenario, memory in bytes as the window ended."""

    cpu_us: float
    rss_bytes: int
    pss_bytes: int


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One round of one scenario on one row.  The costs are None where there is no process between the two ends."""

    row: str
    scenario: str
    round: int
    requests: int
    chunks: int
    reconnects: int
    errors: dict[str, int]
    rate: float
    """Units (requests, events, chunks) a second in the window."""
    core_share: float
    """The part of one core that the whole row used in the window."""
    first_chunk_ms: dict[str, float | None]
    transit_ms: dict[str, float | None]
    workers: Cost | None
    """The processes that do the work."""
    service: Cost | None
    """All processes of the row."""
    growth: dict[str, int] | None = None
    """By how much `rss` and `pss` of the whole row, in bytes, had grown since before the load, as the window ended."""


class Meter:
    """Reads what a row's processes have cost since the last `start`."""

    def __init__(self, root: int) -> None:
        depths = procs.tree(root)
        self.workers, self.service = procs.workers(depths), list(depths)
        self.idle = procs.memory_bytes(self.service)
        """RSS and PSS of the whole row before the load."""
        self.began: dict[int, float] = {}

    def start(self) -> None:
        """The window begins."""
        self.began = {pid: procs.cpu_seconds(pid) for pid in self.service}

    def stop(self) -> tuple[list[float], list[tuple[int, int]]]:
        """The window ends: CPU seconds, then (RSS, PSS), of the workers and of the whole row."""
        spent = {pid: procs.cpu_seconds(pid) - self.began[pid] for pid in self.service}
        groups = (self.workers, self.service)
        return [sum(spent[pid] for pid in pids) for pids in groups], [procs.memory_bytes(pids) for pids in groups]


def measure(row: Row, scenario: Scenario, round_number: int, core: int | None) -> Measurement:
    """Run `scenario` against `row` from `core`.

    Raises `ProcessLookupError` if a process of the row dies meanwhile, `RuntimeError` if the load generator fails.
    """
    command = [sys.executable, str(LOAD), f"--port={row.port}", f"--model={scenario.model}"]
    command += [
        f"--dialect={row.dialect}",
        f"--concurrency={scenario.concurrency}",
        f"--expected-marks={scenario.expected_marks}",
    ]
    command += [f"--warmup={scenario.warmup}", f"--seconds={scenario.seconds}"]
    command += [f"--header={name}:{value}" for name, value in row.headers.items()]
    meter = Meter(row.process.pid) if row.process is not None else None
    process = procs.start(command, core)
    try:
        read_report(process, "begin")
        if meter is not None:
            meter.start()
        read_report(process, "end")
        spent, memory = meter.stop() if meter is not None else ([], [])
        result = read_report(process, "result")
    finally:
        procs.stop(process)
    window = result["window"]
    units: int = window["requests" if scenario.unit == "request" else "chunks"]
    costs = [
        Cost(cpu_us=cpu / max(units, 1) * 1e6, rss_bytes=rss, pss_bytes=pss)
        for cpu, (rss, pss) in zip(spent, memory, strict=True)
    ]
    return Measurement(
        row=row.name,
        scenario=scenario.name,
        round=round_number,
        requests=result["requests"],
        chunks=result["chunks"],
        reconnects=result["reconnects"],
        errors=result["errors"],
        rate=units / window["seconds"],
        core_share=spent[1] / window["seconds"] if spent else 0.0,
        first_chunk_ms=result["first_chunk_ms"],
        transit_ms=result["transit_ms"],
        workers=costs[0] if costs else None,
        service=costs[1] if costs else None,
        growth=_growth(meter.idle, memory[1]) if meter is not None else None,
    )


def _growth(before: tuple[int, int], after: tuple[int, int]) -> dict[str, int]:
    return {name: late - early for name, early, late in zip(("rss", "pss"), before, after, strict=True)}


def read_report(process: "subprocess.Popen[bytes]", what: str) -> dict[str, Any]:
    """The next line of the load generator, which must be the report `what`."""
    assert process.stdout is not None
    stdout: IO[bytes] = process.stdout
    line = stdout.readline()
    report: dict[str, Any] = json.loads(line) if line else {}
    if report.get("what") != what:
        raise RuntimeError(f"the load generator ended before its {what!r}")
    return report
