"""Reloading the configuration: read, check, apply in place, or keep the old one and say why.

Requests come from SIGHUP and from the admin socket.  One reload runs at a time; all requests that arrive meanwhile
are answered by one more, which begins after them and so has read what they meant.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import msgspec
import trio
from msgspec import Struct

from shared import logs
from shared.certificate import certificate_warnings
from shared.config.locate import Loaded, load_config
from shared.errors import ConfigError, StartError
from shared.events import ConfigReloaded
from shared.keys import resolve_keys
from shared.logs import get_logger
from shared.privacy import hide_memory
from supervisor.changes import compare, describe
from supervisor.fleet import Fleet
from supervisor.listen import close_listeners, refuse_exposed, reopen
from supervisor.store import Store

READ_TIMEOUT = 10.0
"""For reading files and opening sockets; a configuration on a disk that hangs is refused."""

log = get_logger()


class Outcome(Struct, frozen=True):
    """How a reload went, for people."""

    applied: bool
    message: str


_STOPPING = Outcome(False, "the service is stopping")


class Reloads:
    """Requests for `reload`, which never raises, and the one task that serves them."""

    def __init__(self, reload: Callable[[], Awaitable[Outcome]]) -> None:
        self._reload = reload
        self._begins: Callable[[], object] = lambda: None
        self._ends: Callable[[], object] = lambda: None
        self._wanted = trio.Event()
        self._waiting: list[Request] = []
        self.running = False
        self._pause = trio.Lock()

    def paused(self) -> trio.Lock:
        """A context in which no reload runs; requests wait."""
        return self._pause

    def dismiss(self, outcome: Outcome) -> bool:
        """Have all that wait told `outcome` instead; whether anybody did."""
        requests, self._waiting = self._waiting, []
        for request in requests:
            request.finish(outcome)
        return bool(requests)

    def request_nowait(self) -> "Request":
        """Have one more reload begin after this call; its outcome can be waited for."""
        if not self._waiting:
            self._waiting.append(Request())
        self._wanted.set()
        return self._waiting[0]

    def around(self, begins: Callable[[], object], ends: Callable[[], object]) -> None:
        """Have these called before and after each reload."""
        self._begins, self._ends = begins, ends

    async def run(self) -> None:
        """Serve requests for ever."""
        while True:
            await self._wanted.wait()
            async with self._pause:
                self._wanted = trio.Event()
                requests, self._waiting = self._waiting, []
                self.running = True
                self._begins()
                outcome = await self._reload()
                self.running = False
                self._ends()
            for request in requests:
                request.finish(outcome)


class Request:
    """A reload that somebody, or many, wait for."""

    def __init__(self) -> None:
        self._finished = trio.Event()
        self._outcome: Outcome | None = None

    def finish(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._finished.set()

    async def wait(self) -> Outcome:
        """The outcome of the reload that served this request."""
        await self._finished.wait()
        assert self._outcome is not None
        return self._outcome


class Reloader:
    """Applies a configuration to the fleet, and to the supervisor itself."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        option: str | None,
        env: Mapping[str, str],
        store: Store,
        publish: Callable[[ConfigReloaded], None],
    ) -> None:
        """`publish` tells listeners how each reload went."""
        self._fleet = fleet
        self._option = option
        self._env = env
        self._store = store
        self._publish = publish
        self.loaded = time.time()
        """Epoch seconds of the last configuration that was applied."""
        self.error: str | None = None
        """Why the newest one was refused; the one before it is in force."""

    async def reload(self) -> Outcome:
        """Read the configuration again.  A refused one changes nothing but `error`."""
        outcome: Outcome | None = None
        with trio.move_on_after(READ_TIMEOUT):
            outcome = await self._reload()
        if outcome is None:
            outcome = Outcome(False, f"the configuration could not be read within {READ_TIMEOUT:g} s")
        if outcome.applied:
            self.loaded, self.error = time.time(), None
            log.info("reload_done", message=outcome.message)
        else:
            self.error = outcome.message
            log.error("reload_failed", error=outcome.message, action="the configuration before it stays in force")
        told = {"message": outcome.message} if outcome.applied else {"error": outcome.message}
        source = self._fleet.settings.config.source
        self._publish(ConfigReloaded(timestamp=time.time(), source=source, ok=outcome.applied, **told))
        return outcome

    async def _reload(self) -> Outcome:
        try:
            # Abandoned on cancellation: a read from a dead disk, or from a FIFO, never returns.
            loaded, keys = await trio.to_thread.run_sync(self._read, abandon_on_cancel=True)
            if self._is_stopping():  # its listeners may be closed already
                return _STOPPING
            old = self._fleet.settings
            known = self._fleet.open_listeners
            server = loaded.config.server
            reopened = partial(reopen, known, server.bind, tcp_user_timeout=server.tcp_user_timeout)
            # Not abandoned: what it opens must be known.
            listeners, _removed = await trio.to_thread.run_sync(reopened)
            try:
                refuse_exposed(listeners, loaded.config.auth)
            except StartError:
                close_listeners(listener for listener in listeners if listener not in known)
                raise
        except (ConfigError, StartError) as error:
            return Outcome(False, str(error))
        except OSError as error:  # a stop closed the listeners under it
            return Outcome(False, f"the listening sockets can't be set up: {error.strerror or error}")
        if self._is_stopping():
            close_listeners(listener for listener in listeners if listener not in known)
            return _STOPPING
        for warning in loaded.warnings:
            log.warning("config_warning", message=warning)
        changes = compare(old.config, loaded.config)
        if loaded.config.agent.enabled:
            hide_memory()
        logs.configure(loaded.config.logging)
        self._store.keep_conversations = loaded.config.agent.keep_conversations
        self._store.settings = loaded.config.storage
        self._fleet.configure(loaded.config, keys, listeners, roll=bool(changes.replaces_workers))
        return Outcome(True, describe(changes, keys_changed=keys != old.keys))

    def _is_stopping(self) -> bool:
        return self._fleet.stopping

    def _read(self) -> tuple[Loaded, dict[str, str]]:
        loaded = load_config(self._option, self._env)
        keys = resolve_keys(loaded.config, self._env)
        doubts = certificate_warnings(loaded.config.server.tls, keys)
        return msgspec.structs.replace(loaded, warnings=(*loaded.warnings, *doubts)), keys
