"""The program `tests/soak.py`: starts everything, lets it run, and prints what came of it."""

import argparse
import contextlib
import re
import shlex
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import msgspec
import trio
from fakes.service import config_text, free_port, wait_until, watch_over
from fakes.soak import report
from fakes.soak.clients import Clients
from fakes.soak.faults import Faults, Upstream, start_upstream
from fakes.soak.ledger import Books
from fakes.soak.plan import WEIGHTS, Fault, asks, injections
from fakes.soak.samples import Sampler, look_at, sockets_to
from fakes.soak.seen import Seen
from fakes.soak.service import Managed, adopt_orphans
from fakes.soak.upstream import Sent

from shared.errors import ControlError
from shared.tokenizer import load_encoding

GRACEFUL = 4.0
SETTLE = 60.0
"""How long it may take at the end until all is idle."""
FDS_LEFT = 12
"""Descriptors that an idle worker may hold beyond those of a new one, its connections to the upstreams apart."""


def make_config(port: int, folder: Path, upstreams: list[Upstream], workers: int) -> str:
    """Providers of both dialects, those that are slow to let go or narrow, and those that nobody can reach."""
    openai, anthropic = (f"http://127.0.0.1:{upstream.port}/v1" for upstream in upstreams)
    closed = free_port()
    return config_text(
        port,
        openai,
        anthropic=anthropic,
        server={
            "workers": workers,
            "graceful_timeout": GRACEFUL,
            "worker_timeout": 6.0,
            "body_timeout": 3.0,
            "send_timeout": 4.0,
            "keep_alive_timeout": 5.0,
            "max_body_bytes": 1024 * 1024,
        },
        more=f"""
[providers.drain]
base_url = "{openai}"
on_disconnect = "drain"
drain_timeout = 3.0
[providers.narrow]
base_url = "{openai}"
max_concurrent = 1
[providers.refused]
base_url = "http://127.0.0.1:{closed}/v1"
[providers.nodns]
base_url = "http://nobody.invalid/v1"
[providers.notls]
base_url = "{openai.replace("http:", "https:")}"
[models.spare]
provider = "refused"
fallbacks = ["fake/text-9"]
[proxy]
stream_timeout = 5.0
max_retries = 1
[proxy.retry]
backoff_base = 0.1
max_backoff = 0.2
[proxy.streaming]
chunk_timeout = 4.0
[agent]
enabled = true
workspace = "{folder / "workspace"}"
sandbox = "off"
""",
    )


class Soak:
    """One of them."""

    def __init__(self, options: argparse.Namespace, folder: Path, stack: contextlib.ExitStack) -> None:
        self.options = options
        self.seen: list[Seen] = []
        self.sampler = Sampler()
        self.stopped = trio.Event()
        self.state: list[str] = []
        """What is not as it should be when all is over."""
        (folder / "workspace").mkdir()
        self.upstreams = [start_upstream(kind, folder) for kind in ("openai", "anthropic")]
        for upstream in self.upstreams:
            stack.callback(upstream.end)
        self.port = free_port()
        config = make_config(self.port, folder, self.upstreams, options.workers)
        self.service = Managed(folder, config, self.port, GRACEFUL)
        self.clients = Clients(self.port, self.seen.append)
        self.faults = Faults(self.service, self.upstreams, self._config_of(config), options.workers)
        self.began = self.ended = time.time()

    def _config_of(self, config: str):
        return lambda workers: re.sub(r"^workers = \d+$", f"workers = {workers}", config, flags=re.MULTILINE)

    async def run(self) -> None:
        """All of it, from the start of the service to its end."""
        async with watch_over(self.service) as service:
            service.launch()
            await service.wait_ready()
            await service.wait_slots(self.options.workers)
            self.fresh = {worker.pid: look_at(worker.pid, pss=False) for worker in await service.serving()}
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sample)
                await self._load()
                await self._settle()
                nursery.cancel_scope.cancel()
            await service.stop()
            self.state += [f"a process is left: {process}" for process in service.processes()]

    async def _load(self) -> None:
        options = self.options
        seconds = options.minutes * 60
        until = trio.current_time() + seconds
        short = max(2, round(options.rate / 2))
        lanes = [("stream", options.streams, 0.0), ("short", short, short / options.rate), ("leaving", 3, 0.3)]
        lanes += [("odd", 3, 0.5), ("agent", 1, 0.7), ("looking", 1, 0.3), ("listening", 2, 0.5), ("admin", 1, 2.0)]
        faults = tuple(fault for fault in WEIGHTS if fault not in options.without)
        async with trio.open_nursery() as nursery:
            for lane, count, pause in lanes:
                for number in range(count):
                    nursery.start_soon(self.clients.lane, asks(options.seed, lane, number, pause))
            nursery.start_soon(self._tell)
            await self.faults.run(injections(options.seed, faults, options.pause, options.workers), until)
            await trio.sleep_until(until)
            self.clients.stopping = True
            self.stopped.set()
        self.ended = time.time()

    async def _tell(self) -> None:
        """How far it has come, for those who wait."""
        while not self.clients.stopping:
            with trio.move_on_after(10):
                await self.stopped.wait()
            done = self.faults.history.done
            last = f", last {done[-1].injection.fault}" if done else ""
            say(f"{time.time() - self.began:6.0f} s  {len(self.seen)} requests, {len(done)} injections{last}")

    async def _sample(self) -> None:
        workers: tuple[int, ...] = ()
        while True:
            pid = self.service.pid if self.service.exit_code is None else None
            with contextlib.suppress(ControlError, AssertionError):
                workers = tuple(await self.service.worker_pids())
            await trio.to_thread.run_sync(self.sampler.look, pid, workers)
            await trio.sleep(1.0)

    async def _settle(self) -> None:
        """Wait until nothing is under way, and look at what is held then."""
        service = self.service

        async def idle() -> bool:
            status = await service.status()
            still = (
                status.totals.active + status.storage.buffered + sum(worker.connections for worker in status.workers)
            )
            return not still and len(status.workers) == self.faults.workers

        try:
            await wait_until(idle, "no streams, no connections, no records that wait", SETTLE, poll=0.2)
            await wait_until(lambda: not self._spooled(), "no records in files", SETTLE)
        except AssertionError as error:
            status = await service.status()
            self.state.append(f"{error}: {status.totals}, {status.workers}, {status.storage}")
        for upstream in self.upstreams:
            if open := await upstream.order("open"):
                self.state.append(f"{open} requests are open at the upstream of {upstream.kind}")
        ports = {upstream.port for upstream in self.upstreams}
        usual = max(held.fds for held in self.fresh.values() if held is not None)
        for worker in await service.serving():
            held = look_at(worker.pid, pss=False)
            more = held.fds - usual - sockets_to(worker.pid, ports) if held is not None else 0
            if more > FDS_LEFT:
                self.state.append(f"worker {worker.pid} holds {more} descriptors more than a new one")
        status = await service.status()
        totals = status.totals
        if totals.started != totals.completed + totals.cancelled + totals.failed:
            self.state.append(f"the totals of the service don't add up: {totals}")

    def _spooled(self) -> bool:
        return self.service.paths.spool.exists() and any(self.service.paths.spool.iterdir())

    def books(self) -> Books:
        """After the upstreams have ended."""
        sent = [
            msgspec.json.decode(line, type=Sent)
            for upstream in self.upstreams
            for line in upstream.log.read_bytes().splitlines()
        ]
        begun = Counter(re.findall(r"event=stream_start .*?\btrace=(\S+)", self.service.log()))
        encoding = load_encoding()
        return Books(
            self.seen,
            self.service.records(),
            sent,
            begun,
            self.faults.history,
            self.clients.cancelled,
            lambda text: len(encoding.encode_ordinary(text)),
        )


def say(text: str) -> None:
    """Tell people; standard output is for the ledger."""
    print(text, file=sys.stderr, flush=True)


def options(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="The service under load and under faults, and a ledger of it.")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=7, help="of what is asked, and of what is broken")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--streams", type=int, default=12, help="how many clients have one stream after the other")
    parser.add_argument("--rate", type=float, default=10.0, help="short requests a second")
    parser.add_argument("--pause", type=float, default=2.0, metavar="S", help="seconds between two injections, about")
    parser.add_argument("--without", default="", help=f"comma-separated, of {', '.join(WEIGHTS)}")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="memory and descriptors over time")
    parser.add_argument("--docs", type=Path, metavar="FILE.md", help="put the report between its `soak` marks")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="a new folder for all files, which stay")
    parsed = parser.parse_args(argv)
    without: set[Fault] = set(parsed.without.split(",")) - {""}  # type: ignore[assignment]
    if unknown := without - set(WEIGHTS):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    parsed.without = without
    return parsed


def main(argv: list[str]) -> int:
    """Run; 1 if anything is unexplained, left over or has grown."""
    parsed = options(argv)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    adopt_orphans()
    command = shlex.join(["python", "tests/soak.py", *argv])
    with contextlib.ExitStack() as stack:
        if parsed.keep is not None:
            parsed.keep.mkdir(parents=True)
            folder = parsed.keep.resolve()
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kimi-proxy-soak-")))
        with contextlib.ExitStack() as processes:
            soak = Soak(parsed, folder, processes)
            trio.run(soak.run)
        found = report.Report(
            command=command,
            seed=parsed.seed,
            ledger=soak.books().close(),
            history=soak.faults.history,
            samples=soak.sampler.samples,
            seen=soak.seen,
            began=soak.began,
            ended=soak.ended,
            state=soak.state,
        )
        (folder / "injections").write_text(found.injections())
    print(found.text())
    if parsed.plot is not None:
        parsed.plot.write_text(found.plot())
    if parsed.docs is not None:
        report.write_docs(parsed.docs, found)
    return 0 if found.good else 1
