"""A running service under a steady load, for whatever is to be done to it, and the checks of what is left afterwards.

    async with open_scene(folder) as scene, scene.load():
        held = scene.connections_of(pid)
        scene.injected()                                # from here on the recovery is measured
        os.kill(pid, signal.SIGKILL)
        await scene.recovered()                         # all workers serve, and a fresh stream of each dialect succeeds
        await scene.settle()                            # whatever was asked so far has had its end
        assert {asked.port for asked in scene.not_completed} <= held
    await scene.aftermath()

Every request is an `Asked`, whoever asks (`scene.load()`, `scene.ask`, `scene.begin`), and has one `outcome`:

    completed   the whole answer, to the last byte of its grammar
    error       an error in the client's dialect, as the answer or as the legal end of a stream
    cut         the connection ended first
    refused     there was no connection
    left        the client itself went away
    garbled     none of these: never legal           hung        no end within `HUNG` seconds: never legal

`aftermath` fails where anything is left over, whatever the fault was.
"""

import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Set
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil
import trio
from fakes.anthropic_upstream import AnthropicUpstream, serve_anthropic
from fakes.grammar import anthropic_faults, ends_in_error, openai_faults, parse_events
from fakes.hooks import hooked
from fakes.load import MESSAGES, PATH, BrokenOff, Client, chat, message, said
from fakes.openai_upstream import OpenAIUpstream, serve_openai
from fakes.script import behaviour, text_of
from fakes.service import Service, config_text, free_port, wait_until, watch_over
from fakes.sessions_api import call

Dialect = Literal["openai", "anthropic"]
Outcome = Literal["completed", "error", "cut", "refused", "left", "garbled", "hung"]
HUNG = 30.0
SLOW, SHORT = "text-10+slow-40", "text-3"
PROVIDERS: dict[Dialect, str] = {"openai": "fake", "anthropic": "claude"}
DIALECTS: tuple[Dialect, ...] = ("openai", "anthropic")
UNTOLD = 2
"""Descriptors that the supervisor keeps of a dead worker until the next starts, where the fork server was slow to tell
how it ended."""
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Setup:
    """What a scene's configuration has beside the usual; two rows with equal ones share a service."""

    server: Mapping[str, object] = field(default_factory=dict)
    provider: Mapping[str, object] = field(default_factory=dict)
    more: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    around: Callable[["Service"], AbstractContextManager[object]] | None = None
    """Entered before the service is launched, left when it has ended."""


@dataclass(eq=False)
class Asked:
    """One request and what became of it.  Times are trio's."""

    trace: str
    dialect: Dialect
    """The client's."""
    model: str
    stream: bool
    began: float
    port: int = 0
    """The client's; 0 if it was never connected."""
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    outcome: Outcome | None = None
    """None while it lasts."""
    why: str = ""
    ended: float = 0.0
    changed: trio.Event = field(default_factory=trio.Event)
    """Set when bytes of the body come, and at the end; then replaced."""
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def wait_bytes(self) -> None:
        """Until something of the body has come, or the end."""
        while not self.body and self.outcome is None:
            await self.changed.wait()

    async def wait(self) -> "Asked":
        """Until the end."""
        while self.outcome is None:
            await self.changed.wait()
        return self

    def leave(self) -> None:
        """The client goes away."""
        self._scope.cancel()

    @property
    def error_type(self) -> str | None:
        """The type of the error that the client was told."""
        if self.outcome != "error":
            return None
        text = [data for _, data in parse_events(self.body)][-1] if self.status == 200 else self.body
        return str(json.loads(text)["error"]["type"])

    def _notify(self) -> None:
        changed, self.changed = self.changed, trio.Event()
        changed.set()

    def end(self, outcome: Outcome, why: str = "") -> None:
        self.outcome, self.why, self.ended = outcome, why, trio.current_time()
        self._notify()

    def judge(self) -> tuple[Outcome, str]:
        """The outcome of a response that came to its proper end."""
        if self.status != 200:
            return ("error", "") if _is_error(self.dialect, self.body) else ("garbled", repr(self.body[-300:]))
        if not self.stream:
            text = _text_of_whole(self.dialect, self.body)
        else:
            passed = self.model.startswith(PROVIDERS[self.dialect])
            check = {"openai": openai_faults, "anthropic": anthropic_faults}[self.dialect]
            if faults := check(self.body, passed=passed):
                return "garbled", f"{faults} in {self.body[-600:]!r}"
            if ends_in_error(self.body):
                return "error", ""
            text = _text_of_stream(self.dialect, self.body)
        does = behaviour(self.model.partition("/")[2])
        wanted = "".join(text_of(does.get("text", 16), does.get("big", 0)))
        return ("completed", "") if text == wanted else ("garbled", f"said {text[-300:]!r} for {self.model}")


def _is_error(dialect: Dialect, body: bytes) -> bool:
    try:
        told = json.loads(body)
        error = told["error"]
        right = dialect == "openai" or (told["type"] == "error" and "request_id" in told)
        return right and all(isinstance(error[name], str) and error[name] for name in ("type", "message"))
    except (ValueError, KeyError, TypeError):
        return False


def _text_of_whole(dialect: Dialect, body: bytes) -> str:
    told = json.loads(body)
    if dialect == "openai":
        return str(told["choices"][0]["message"]["content"])
    return "".join(block["text"] for block in told["content"])


def _text_of_stream(dialect: Dialect, body: bytes) -> str:
    if dialect == "openai":
        return said(body)
    deltas = [json.loads(data).get("delta") or {} for _, data in parse_events(body)]
    return "".join(delta.get("text", "") for delta in deltas)


class Scene:
    """See the module."""

    def __init__(
        self, service: Service, port: int, upstreams: tuple[OpenAIUpstream, AnthropicUpstream], nursery: trio.Nursery
    ) -> None:
        self.service = service
        self.port = port
        self.openai, self.anthropic = upstreams
        self.setup = Setup()
        self.workers = 2
        self.asked: list[Asked] = []
        """Since `begin_row`, in the order of their beginnings."""
        self.excused: set[str] = set()
        """Traces whose records need not be there: the fault destroyed them, or their number is the row's own claim."""
        self.recovery: float | None = None
        """Seconds, once it was measured."""
        self._nursery = nursery
        self._injected: float | None = None
        self._loading = 0
        self._baseline: tuple[int, int] | None = None

    # --- requests

    def begin_row(self) -> None:
        """Forget what was before."""
        self.asked = [asked for asked in self.asked if asked.outcome is None]
        self.excused.clear()
        self.recovery = self._injected = None

    def begin(
        self,
        model: str,
        dialect: Dialect = "openai",
        *,
        stream: bool = True,
        marker: str = "hi",
        headers: Mapping[str, str] | None = None,
        **body: Any,
    ) -> Asked:
        """Ask in the background, on a connection of its own.  `model` as in "fake/text-5" or "claude/slow-20"."""
        asked = self._new(model, dialect, stream)
        self._nursery.start_soon(self._ask_once, asked, marker, headers, body)
        return asked

    async def ask(self, model: str, dialect: Dialect = "openai", **how: Any) -> Asked:
        """`begin`, and wait for the end."""
        return await self.begin(model, dialect, **how).wait()

    def _new(self, model: str, dialect: Dialect, stream: bool) -> Asked:
        asked = Asked(f"scene-{next(_numbers)}", dialect, model, stream, trio.current_time())
        self.asked.append(asked)
        return asked

    async def _ask_once(
        self, asked: Asked, marker: str, headers: Mapping[str, str] | None, body: Mapping[str, Any]
    ) -> None:
        client = Client(self.port)
        try:
            await self._ask_on(client, asked, marker, headers, body)
        finally:
            if client.connected:
                client.close()

    async def _ask_on(
        self,
        client: Client,
        asked: Asked,
        marker: str = "hi",
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> bool:
        """One request over `client`, which is connected first if it isn't; whether it can be used again."""
        with asked._scope:
            if not client.connected:
                try:
                    await client.__aenter__()
                except OSError as error:
                    asked.end("refused", str(error))
                    return False
            asked.port = client.port
            make = {"openai": chat, "anthropic": message}[asked.dialect]
            path = {"openai": PATH, "anthropic": MESSAGES}[asked.dialect]
            try:
                with trio.fail_after(HUNG):
                    content = make(asked.model, marker, stream=asked.stream, **(body or {}))
                    response = await client.post(content, path, {"x-request-id": asked.trace, **(headers or {})})
                    asked.status, asked.headers = response.status, response.headers
                    while data := await response.receive():
                        asked.body += data
                        asked._notify()
            except (BrokenOff, trio.TooSlowError) as error:
                asked.end("cut" if isinstance(error, BrokenOff) else "hung", str(error))
                return False
            asked.end(*asked.judge())
            return client.reuse()
        asked.end("left")
        return False

    @asynccontextmanager
    async def load(self, times: int = 2) -> AsyncIterator[None]:
        """Streams in both dialects from both upstreams, all the time: slow ones, short ones, and whole answers.

        The body begins when they are under way; on leaving, no more are asked, and those that live are waited for.
        `times` four slow streams at a time.
        """
        self._loading += 1
        first = len(self.asked)
        async with trio.open_nursery() as nursery:
            for dialect, provider in itertools.product(DIALECTS, PROVIDERS.values()):
                for _ in range(times):
                    nursery.start_soon(self._keep_asking, f"{provider}/{SLOW}", dialect, True, 0.0)
                stream = provider == PROVIDERS[dialect]
                nursery.start_soon(self._keep_asking, f"{provider}/{SHORT}", dialect, stream, 0.05)
            await wait_until(lambda: sum(bool(a.body) for a in self.asked[first:]) >= 4 * times, "the load")
            yield
            self._loading -= 1

    async def _keep_asking(self, model: str, dialect: Dialect, stream: bool, pause: float) -> None:
        client: Client | None = None
        try:
            while self._loading:
                client = client or Client(self.port)
                asked = self._new(model, dialect, stream)
                if not await self._ask_on(client, asked):
                    if client.connected:
                        client.close()
                    client = None
                await trio.sleep(0.05 if asked.outcome == "refused" else pause)
        finally:
            if client is not None and client.connected:
                client.close()

    async def settle(self) -> None:
        """Wait until everything that has been asked so far has had its end."""
        for asked in list(self.asked):
            await asked.wait()

    async def completed_more(self, count: int = 8) -> None:
        """Wait until so many more requests are completed."""
        done = self.count("completed")
        await wait_until(lambda: self.count("completed") >= done + count, f"{count} more completed requests")

    def of(self, *outcomes: Outcome) -> list[Asked]:
        """The requests of this row that ended so."""
        return [asked for asked in self.asked if asked.outcome in outcomes]

    def count(self, *outcomes: Outcome) -> int:
        """How many they are."""
        return len(self.of(*outcomes))

    @property
    def not_completed(self) -> list[Asked]:
        """The requests of this row that ended in any other way."""
        return [asked for asked in self.asked if asked.outcome not in (None, "completed")]

    @property
    def told(self) -> Counter[str]:
        """How many of this row's requests ended in each way; for the messages of asserts."""
        return Counter(f"{asked.outcome} {asked.why}".strip() for asked in self.not_completed)

    # --- the service

    @property
    def hooks(self) -> Path:
        """The folder of `fakes.hooks`."""
        return self.service.folder / "h"

    async def busiest(self) -> list[int]:
        """The workers' pids, the one with the most streams first, once it has some; the kernel chooses who accepts."""

        async def found() -> list[int]:
            workers = sorted(await self.service.serving(), key=lambda worker: -worker.streams)
            enough = len(workers) == self.workers and workers[0].streams > 0
            return [worker.pid for worker in workers] if enough else []

        return await wait_until(found, "workers with streams")

    def connections_of(self, *pids: int) -> set[int]:
        """The clients' ports of the connections that these workers hold; stop them first to know it exactly."""
        found = [c for pid in pids for c in psutil.Process(pid).net_connections("tcp")]
        return {c.raddr.port for c in found if c.raddr and c.laddr.port == self.port}

    def config(self, **changes: Any) -> str:
        """The text of the configuration, with `server`, `provider` and `more` changed on top of the setup's."""
        setup = self.setup
        server = {"workers": self.workers, **setup.server, **changes.get("server", {})}
        return config_text(
            changes.get("port", self.port),
            self.openai.base_url,
            anthropic=self.anthropic.base_url,
            server=server,
            provider={"backoff_base": 0.0, **setup.provider, **changes.get("provider", {})},
            more=setup.more + changes.get("more", ""),
        )

    async def stop(self) -> None:
        """Have the service leave, in good order; the row launches it again."""
        self.service.process.terminate()
        assert await self.service.wait_exit() == 0, self.service.log()[-20_000:]
        await wait_until(lambda: not self.service.processes(), "all processes gone")
        self.service.check_log()

    # --- recovery

    def injected(self) -> None:
        """Now: recovery is measured from the last call of it."""
        self._injected = time.monotonic()

    async def recovered(self, *, without: Iterable[int] = (), timeout: float = 20.0) -> float:
        """Wait until the service answers as before, and tell how long that took since `injected`.

        As before: all workers serve, nothing is wrong in the status, and a fresh stream of each dialect is completed.
        The workers with the pids `without` are dead; the status may not have heard of it yet.
        """
        assert self._injected is not None, "nothing was injected"
        dead = set(without)

        async def again() -> bool:
            return await self._is_well(dead) and all([await self.fresh(dialect) for dialect in DIALECTS])

        await wait_until(again, "the service as before", timeout, poll=0.01)
        self.recovery = time.monotonic() - self._injected
        return self.recovery

    async def _is_well(self, without: Set[int] = frozenset()) -> bool:
        with suppress(Exception):  # no supervisor, no admin socket, no answer: not yet
            status = await self.service.status()
            well = (status.state, status.config_error, status.crash_loop, status.storage.problem)
            serving = [worker for worker in status.workers if worker.state == "serving"]
            whole = len(serving) == len(status.workers) == self.workers
            return well == ("running", None, None, None) and whole and not without & {w.pid for w in serving}
        return False

    async def fresh(self, dialect: Dialect) -> bool:
        """Whether a new client's short stream is completed; it doesn't count among the row's."""
        asked = await self.ask(f"{PROVIDERS[dialect]}/{SHORT}", dialect)
        self.asked.remove(asked)
        assert asked.outcome not in ("garbled", "hung"), asked.why
        return asked.outcome == "completed"

    # --- what is left

    async def aftermath(self) -> None:
        """Nothing is left, nothing is lost, and the service is as it was.  No load may run."""
        assert not self._loading
        await self.settle()
        illegal = self.of("garbled", "hung")
        assert not illegal, [(asked.trace, asked.model, asked.dialect, asked.why) for asked in illegal]
        await wait_until(lambda: self._is_well(), "a service without problems")
        await wait_until(self._is_idle, "no stream, no session, no place, no buffered record")
        await wait_until(self._upstreams_are_idle, "no upstream connection but the workers' idle ones")
        await self._check_records()
        await wait_until(self._processes_are_ours, f"no zombie, no stray process: {self.service.processes()}")
        for dialect in DIALECTS:
            assert await self.fresh(dialect)
        assert (await call(self.port, "GET", "/health/ready"))[0] == 200
        await wait_until(self._is_idle, "no stream")
        await self._check_descriptors()

    async def _is_idle(self) -> bool:
        status = await self.service.status()
        busy = [worker.streams for worker in status.workers] + [provider.active for provider in status.providers]
        code, live = await call(self.port, "GET", "/api/sessions/active")
        return (
            not any(busy)
            and status.totals.active == status.storage.buffered == 0
            and code == 200
            and live["active"] == 0
            and live["sessions"] == []
        )

    def _upstreams_are_idle(self) -> bool:
        if self.openai.open_requests or self.anthropic.open_requests:
            return False
        ports = {
            self.openai.server.port: self.openai.server.open,
            self.anthropic.server.port: self.anthropic.server.open,
        }
        held: Counter[int] = Counter()
        for process in self.service.processes():
            with suppress(psutil.NoSuchProcess):
                connections = process.net_connections("tcp")
                held.update(c.raddr.port for c in connections if c.raddr and c.status == psutil.CONN_ESTABLISHED)
        return all(held[port] == count for port, count in ports.items())

    async def _check_records(self) -> None:
        """One terminal record for each stream whose head came, at most one for any other, and no field is missing."""
        wanted = [asked for asked in self.asked if asked.trace not in self.excused]
        certain = {asked.trace for asked in wanted if asked.status == 200}

        def found() -> bool:
            return certain <= {record["trace"] for record in self.service.records()}

        try:
            await wait_until(found)
        except AssertionError:
            missing = certain - {record["trace"] for record in self.service.records()}
            lost = [(asked.trace, asked.outcome, asked.why) for asked in wanted if asked.trace in missing]
            raise AssertionError(f"without a record: {lost}") from None
        records = self.records()
        counts = Counter(record["trace"] for record in records)
        assert not [trace for trace, count in counts.items() if count > 1], "more than one record"
        by_trace = {asked.trace: asked for asked in wanted}
        for record in records:
            if record["trace"] in by_trace:
                check_record(record, by_trace[record["trace"]])

    def records(self) -> list[dict[str, Any]]:
        """Those of this row's requests."""
        traces = {asked.trace for asked in self.asked}
        return [record for record in self.service.records() if record["trace"] in traces]

    async def record(self, asked: Asked) -> dict[str, Any]:
        """The one of this request, once it is there."""
        return await self.service.record(asked.trace)

    async def _processes_are_ours(self) -> bool:
        """The supervisor, the fork server, its resource tracker and the workers, and none of them a zombie."""
        workers = set(await self.service.worker_pids())
        strays = []
        for process in self.service.processes():
            with suppress(psutil.NoSuchProcess):
                helper = process.ppid() == self.service.pid and "multiprocessing" in " ".join(process.cmdline())
                if process.pid not in workers | {self.service.pid} and not helper:
                    strays.append(process)
        family = {process.pid for process in self.service.processes()}
        dead = [p for p in psutil.process_iter(["status", "ppid"]) if p.info["status"] == psutil.STATUS_ZOMBIE]
        return not strays and not [zombie for zombie in dead if zombie.info["ppid"] in family]

    async def _descriptors(self) -> tuple[int, int]:
        """How many the supervisor has, and the worker with the most, without connections to clients and upstreams."""
        pids = await self.service.worker_pids()
        held = []
        for process in map(psutil.Process, [self.service.pid, *pids]):
            connections = [c for c in process.net_connections("tcp") if c.raddr]
            held.append(process.num_fds() - len(connections))
        return held[0], max(held[1:])

    async def _check_descriptors(self) -> None:
        baseline = self._baseline
        if baseline is None:
            return

        async def back() -> bool:
            with suppress(psutil.NoSuchProcess):
                now = await self._descriptors()
                return now[0] <= baseline[0] + UNTOLD and now[1] <= baseline[1]
            return False

        try:
            await wait_until(back, "the descriptors are back", timeout=5, poll=0.1)
        except AssertionError:
            now = await self._descriptors()
            raise AssertionError(f"descriptors of supervisor and workers: {baseline} before, {now} now") from None

    async def measure_baseline(self) -> None:
        """How many descriptors an idle service has; those that it opens once and keeps are open by now."""
        for dialect, _ in itertools.product(DIALECTS, range(3)):
            assert await self.fresh(dialect)
        await call(self.port, "GET", "/api/sessions/active")
        await wait_until(lambda: len(self.service.records()) >= 6, "the first records")
        await wait_until(self._is_idle, "an idle service")
        await self.service.wait_serving(self.workers)
        self._baseline = await self._descriptors()


ENDS: dict[str, set[str]] = {"completed": {"completed"}, "error": {"failed", "cancelled"}}
"""Outcome → what its record may say.  The other outcomes leave it open."""
ALWAYS = ("id", "trace", "worker", "provider", "model", "upstream_model", "dialect", "started", "duration", "status")
TOKENS = ("prompt_tokens", "prompt_source", "completion_tokens", "completion_source")


def check_record(record: Mapping[str, Any], asked: Asked) -> None:
    """A record has all its fields, and says what the client saw."""
    missing = [name for name in ALWAYS if record[name] is None]
    if record["status"] == "completed":
        missing += [name for name in (*TOKENS, "first_byte") if record[name] is None]
    else:
        missing += [name for name in ("error_type",) if record[name] is None]
    assert not missing, (missing, record)
    assert record["duration"] >= 0, record
    if record["error_type"] != "worker_died":  # a worker may have died between the last byte and its record
        assert record["status"] in ENDS.get(asked.outcome or "", {"completed", "failed", "cancelled"}), (
            record,
            asked.outcome,
            asked.why,
        )
    assert record["status"] in ("completed", "cancelled", "failed")
    assert (record["dialect"], bool(record["streaming"])) == (asked.dialect, asked.stream), record


def by_outcome(asked: Iterable[Asked]) -> Counter[str]:
    """How many ended in each way."""
    return Counter(str(one.outcome) for one in asked)


@asynccontextmanager
async def open_scene(folder: Path, setup: Setup | None = None, *, stop: bool = True) -> AsyncIterator[Scene]:
    """A ready service with both upstreams.  On leaving it is stopped, exit code 0, unless `stop` is False."""
    setup = setup or Setup()
    port = free_port()
    async with serve_openai() as openai, serve_anthropic() as anthropic, trio.open_nursery() as nursery:
        temporary = folder / "tmp"
        temporary.mkdir()
        service = Service(folder, None, env={"TMPDIR": str(temporary), **hooked(folder / "h"), **setup.env})
        scene = Scene(service, port, (openai, anthropic), nursery)
        scene.setup = setup
        scene.workers = int(str(setup.server.get("workers", 2)))
        service.write_config(scene.config())
        service.arguments += ["--config", str(service.config_file)]
        with setup.around(service) if setup.around is not None else nullcontext():
            async with watch_over(service, stop=False):
                service.launch()
                await service.wait_ready()
                await service.wait_serving(scene.workers)
                await scene.measure_baseline()
                yield scene
                if stop:
                    await scene.stop()
        nursery.cancel_scope.cancel()
