"""The benchmark: what a gateway adds to a stream, side by side with nginx and with nothing.

    python tests/benchmarks/run.py [--quick] [--peers] [--rows direct,nginx,kimi-proxy,…] [--json FILE]
    python tests/benchmarks/run.py --scenario crowd         # 2,000 streams at once for 60 s, on three rows

One run starts a mock upstream and every row, then interleaves them: each round runs each scenario on each row in turn,
every second round backwards, so that a slow spell of the machine hits all alike.  The measured processes have one core,
the mock and the load generator another.  The exit status is 1 if a row failed or a response was incomplete, never
because something was slow.
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import shlex
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import NoReturn

import procs
import report
from measure import measure
from rows import STARTERS, NotReady, Row, Skipped, Stage, installed
from scenarios import crowd, scenarios

MOCK = Path(__file__).with_name("mock_upstream.py")
ROWS = ("direct", "nginx", "kimi-proxy", "listened", "translating")
CROWD_ROWS = ("direct", "nginx", "kimi-proxy")
PEERS = ("litellm", "portkey")
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
BUSY = 0.2
"""Load average per core, before the run, beyond which its figures aren't worth keeping."""
LIBRARIES = ("hypercorn", "httpx", "httptools", "trio")


def say(text: str) -> None:
    """Tell people; standard output is for the result."""
    print(text, file=sys.stderr, flush=True)


def start_mock(stack: contextlib.ExitStack, core: int | None) -> int:
    """Start the mock upstream; its port."""
    process = procs.start([sys.executable, str(MOCK)], core)
    stack.callback(procs.stop, process)
    assert process.stdout is not None
    return int(process.stdout.readline())


def start_rows(names: list[str], stage: Stage) -> tuple[list[Row], list[str], bool]:
    """Start what there is: the rows, notes on those that are missing, and whether one failed that may not."""
    rows, missing, failed = [], [], False
    for name in names:
        try:
            rows.append(STARTERS[name](stage))
        except Skipped as reason:
            missing.append(f"No {name} row: {reason}.")
        except NotReady as problem:
            missing.append(f"No {name} row: {problem}")
            failed |= name not in PEERS
    return rows, missing, failed


def machine(cores: procs.Cores, rows: list[Row], load_before: float) -> list[str]:
    """Where this was measured, and with what; `load_before` is the load average before the run: other people's work."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    count = len(procs.usable_cores())
    pinning = "not pinned" if cores.target is None else "the measured service on one, mock and load on another"
    versions = [f"{row.name} {row.version}" for row in rows if row.version]
    libraries = [f"{name} {version}" for name in LIBRARIES if (version := installed(name))]
    return [
        f"{count} core{'s' if count > 1 else ''} of {model} ({pinning}), {platform.system()} {platform.release()}, "
        f"load average {load_before:.2f} before the run",
        f"{platform.python_implementation()} {platform.python_version()}; {', '.join([*versions, *libraries])}",
    ]


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="What a gateway adds to a stream, beside nginx and nothing.")
    parser.add_argument("--quick", action="store_true", help="shorter windows, 100 paced streams instead of 400")
    parser.add_argument(
        "--scenario", choices=("all", "crowd"), default="all", help="crowd: 2,000 streams at once, and nothing else"
    )
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="length of each window (default 3, quick 1; crowd 60, quick 2)"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="default 3; crowd 1")
    parser.add_argument("--rows", help=f"comma-separated, of {', '.join(STARTERS)}; default {','.join(ROWS)}")
    parser.add_argument("--peers", action="store_true", help=f"also {' and '.join(PEERS)}, where installed")
    parser.add_argument("--kimi-proxy", metavar="PROGRAM", help="default: bin/kimi-proxy of this checkout")
    parser.add_argument("--litellm", metavar="PATH", help="its venv or program (default: on PATH)")
    parser.add_argument("--portkey", metavar="PATH", help="folder of the npm package @portkey-ai/gateway")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement there")
    parsed = parser.parse_args()
    is_crowd = parsed.scenario == "crowd"
    parsed.rounds = (1 if is_crowd else 3) if parsed.rounds is None else parsed.rounds
    parsed.rows = parsed.rows or ",".join(CROWD_ROWS if is_crowd else ROWS)
    parsed.seconds = parsed.seconds or ((2.0 if parsed.quick else 60.0) if is_crowd else 1.0 if parsed.quick else 3.0)
    parsed.rows = list(dict.fromkeys(parsed.rows.split(",") + (list(PEERS) if parsed.peers else [])))
    if unknown := set(parsed.rows) - set(STARTERS):
        parser.error(f"no such row: {', '.join(sorted(unknown))} (there are {', '.join(STARTERS)})")
    if parsed.rounds < 1:
        parser.error("--rounds must be at least 1")
    return parsed


def run(parsed: argparse.Namespace) -> int:
    """Everything between the command line and the exit status."""
    cores = procs.Cores.choose()
    is_crowd = parsed.scenario == "crowd"
    loads = [crowd(parsed.seconds, parsed.quick)] if is_crowd else scenarios(parsed.seconds, parsed.quick)
    measurements = []
    load_before = os.getloadavg()[0]
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kimi-proxy-benchmark-")))
        stage = Stage(
            scratch=scratch,
            upstream_port=start_mock(stack, cores.load),
            cores=cores,
            stack=stack,
            kimi_proxy=parsed.kimi_proxy,
            litellm=parsed.litellm,
            portkey=parsed.portkey,
        )
        rows, missing, failed = start_rows(parsed.rows, stage)
        for note in missing:
            say(note)
        with procs.pinned(cores.load):
            for number in range(1, parsed.rounds + 1):
                for load in loads:
                    for row in rows if number % 2 else reversed(rows):
                        say(f"round {number}/{parsed.rounds}  {load.title:12}  {row.name}")
                        measurements.append(measure(row, load, number, cores.load))
        about = machine(cores, rows, load_before)
    results = report.Results({load.name: load for load in loads}, measurements)
    command = shlex.join(["python", "tests/benchmarks/run.py", *sys.argv[1:]])
    parts = [f"`{command}`", "\n".join(about)]
    if is_crowd:
        parts += [report.crowd_table(results), report.crowd_notes(results)]
    else:
        parts += [report.main_table(results), report.notes(results, parsed.rounds), report.ratio_table(results)]
    if load_before > BUSY * len(procs.usable_cores()):
        parts.append("The machine was busy with other things before the run: measure again when it is quiet.")
    if missing:
        parts.append("\n".join(note.splitlines()[0] for note in missing))
    errors = results.errors(results.rows())
    if errors:
        parts.append("Errors:\n" + "\n".join(f"* {line}" for line in errors))
    print("\n\n".join(parts))
    if parsed.json is not None:
        raw = {"command": command, "machine": about, "missing": missing, "measurements": [*map(asdict, measurements)]}
        parsed.json.write_text(json.dumps(raw, indent=2) + "\n")
    own_errors = results.errors(row.name for row in rows if not row.peer)
    return 1 if failed or own_errors else 0


def leave(signum: int, frame: FrameType | None) -> NoReturn:
    """End by way of the exit stack, which ends what was started; a second signal doesn't interrupt that."""
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + signum)


def main() -> int:
    """Run; an interrupt leaves nothing behind."""
    parsed = options()
    for number in ENDINGS:
        signal.signal(number, leave)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return run(parsed)


if __name__ == "__main__":
    sys.exit(main())
