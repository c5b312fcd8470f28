"""The composition root of the service: what is set up in which order, and the one nursery of named tasks.

Everything that can fail, and everything that blocks or forks, happens before trio runs; a fork made inside a running
trio could not start trio again.
"""

import contextlib
import os
import resource
from collections.abc import Mapping
from functools import partial
from itertools import count
from typing import assert_never

import msgspec
import trio

from shared import VERSION, logs, stackdump
from shared.certificate import certificate_warnings
from shared.config.locate import load_config
from shared.errors import StartError
from shared.keys import key_variables, resolve_keys
from shared.logs import get_logger
from shared.paths import Paths, prepare, resolve_paths
from shared.privacy import hide_memory
from supervisor.admin import serve_admin
from supervisor.announce import Announcer
from supervisor.answers import Answers
from supervisor.control import (
    Cancelled,
    CancelSession,
    CancelStale,
    Done,
    DumpStacks,
    Refused,
    Reload,
    Reply,
    Request,
    Sessions,
    SessionsReply,
    Status,
    Upgrade,
)
from supervisor.conversations import Conversations
from supervisor.elder import Elder
from supervisor.fdstore import has_store
from supervisor.fleet import Fleet, Settings
from supervisor.forkserver import ForkServer
from supervisor.heir import Heir
from supervisor.hub import Hub
from supervisor.ledger import Ledger
from supervisor.listen import close_listeners, open_listeners, refuse_exposed
from supervisor.loginsecret import load_login_secret
from supervisor.office import Office
from supervisor.reload import Reloader, Reloads
from supervisor.sdnotify import watchdog_interval
from supervisor.signals import SignalsBeforeTrio, obey
from supervisor.spool import SpoolImporter
from supervisor.state import ServiceState
from supervisor.store import Store
from supervisor.upgrade import Upgrades

STORE_TIMEOUT = 10.0
"""How long the last records may take to reach the disk."""
_MAX_FDS = 1 << 20

log = get_logger()


def run(config_option: str | None = None, *, fork_server: ForkServer | None = None) -> int:
    """Be the service until a signal ends it; the exit code.

    `ConfigError` or `StartError` if it can't start, or never gets a worker ready.  Tests pass a `fork_server` whose
    workers are theirs.
    """
    heir = Heir.of(os.environ)
    with contextlib.ExitStack() as stack:
        if heir is not None:
            stack.enter_context(heir)
        early = stack.enter_context(SignalsBeforeTrio())
        stackdump.install("supervisor")
        env = dict(os.environ)
        loaded = load_config(config_option, env)
        config = loaded.config
        keys = resolve_keys(config, env)
        for name in key_variables(config):
            os.environ.pop(name, None)  # workers are told their keys; what they start need not see them
        if config.agent.enabled:
            hide_memory()
        logs.configure(config.logging)
        log.info("service_start", version=VERSION, pid=os.getpid(), config=config.source or "built in")
        for warning in (*loaded.warnings, *certificate_warnings(config.server.tls, keys)):
            log.warning("config_warning", message=warning)
        _raise_fd_limit()

        paths = resolve_paths(os.environ)
        prepare(paths)
        office = Office(paths, env, heir=heir is not None)
        stack.callback(office.close)
        login_secret = load_login_secret(paths.login_secret)
        store = Store(paths.database, config.storage, keep_conversations=config.agent.keep_conversations)
        if heir is None:
            store.open()
        stack.callback(_close_store, store)
        with contextlib.ExitStack() as unless_served:
            if heir is None:
                listeners = open_listeners(config.server.bind, tcp_user_timeout=config.server.tcp_user_timeout)
            else:
                listeners = heir.open_listeners(config.server)
            unless_served.callback(close_listeners, listeners)
            refuse_exposed(listeners, config.auth)
            fork_server = fork_server or ForkServer()
            if not fork_server.launch():
                log.warning("worker_preload_missed", effect="every worker imports its code for itself")
            early.hold()
            unless_served.pop_all()
        settings = Settings(
            config=config,
            keys=keys,
            listeners=tuple(listeners),
            login_secret=login_secret,
        )
        failure = trio.run(_serve, settings, paths, fork_server, store, office, early, config_option, env, heir)
        log.info("service_stop", pid=os.getpid())
        if failure is not None:
            raise StartError(failure)
    return 0


async def _serve(
    settings: Settings,
    paths: Paths,
    fork_server: ForkServer,
    store: Store,
    office: Office,
    early: SignalsBeforeTrio,
    config_option: str | None,
    env: Mapping[str, str],
    heir: Heir | None,
) -> str | None:
    """Run all tasks until the fleet has ended; why it gave up, or None if it was stopped.

    An `heir` takes the service over first, and goes on until its elder is gone, too.
    """
    ledger = Ledger()
    hub = Hub(settings.config, ledger)
    fleet = Fleet(
        fork_server,
        settings,
        ledger=ledger,
        store=store,
        hub=hub,
        supervisor_pid=os.getpid(),
        paths=paths,
        held=heir is not None,
        keep_files=has_store(env),
    )
    elder = None
    if heir is not None:
        elder = Elder(heir.elder_pid, heir.pidfd, heir.writer, ledger=ledger, hub=hub, store=store)
    reloader = Reloader(fleet, option=config_option, env=env, store=store, publish=hub.fanout.publish)
    reloads = Reloads(reloader.reload)
    state = ServiceState(
        fleet=fleet, reloads=reloads, reloader=reloader, ledger=ledger, store=store, hub=hub, elder=elder
    )
    conversations = Conversations(store, paths.database)
    answers = Answers(
        ledger,
        config=lambda: fleet.settings.config,
        status=state.reply,
        health=hub.health.snapshot,
        waiting=lambda: hub.admission.waiting,
        metrics=hub.metrics.render,
        recent=hub.metrics.recent.minutes,
        conversations=conversations,
        cancel=hub.cancel,
    )
    interval = watchdog_interval(os.environ, os.getpid())
    announcer = Announcer(office.notifier, fleet, state, watchdog_interval=interval)
    stops = count()

    def stop() -> None:
        """The first signal drains, a second one shortens the wait to the streams' cancel grace."""
        if next(stops):
            stop_within(0.0)
            return
        timeout = fleet.settings.config.server.graceful_timeout
        log.info("service_stopping", timeout=timeout)
        announcer.stopping()
        stop_within(timeout)

    def stop_within(timeout: float) -> None:
        upgrades.abandon()
        fleet.stop(timeout)
        if elder is not None and heir is not None and heir.taken:
            elder.stop(timeout)

    def reload() -> None:
        if upgrades.done:
            upgrades.reload_heir()
        else:
            reloads.request_nowait()

    upgrades = Upgrades(fleet=fleet, hub=hub, reloads=reloads, office=office, paths=paths, env=env, on_stop=stop_within)

    async def answer(request: Request) -> Reply:
        match request:
            case Status():
                return state.reply()
            case Reload():
                outcome = await reloads.request_nowait().wait()
                return Done(outcome.message) if outcome.applied else Refused(outcome.message)
            case DumpStacks():
                stackdump.dump()
                return Done(f"the supervisor and {fleet.dump_stacks()} workers wrote their stacks")
            case Sessions():
                return SessionsReply(msgspec.to_builtins(answers.active_sessions()))
            case CancelSession(id):
                return Cancelled(answers.cancel_session(id))
            case CancelStale(idle):
                return Cancelled(answers.cancel_stale(idle))
            case Upgrade():
                return await upgrades.upgrade(request)
            case _:
                assert_never(request)

    def dump_workers() -> None:
        fleet.dump_stacks()

    def keep_sockets() -> None:
        office.keep_sockets(fleet.settings.listeners)

    def reload_ends() -> None:
        keep_sockets()
        announcer.reload_ends()

    async def hold_office() -> None:
        """The tasks that only one supervisor of a service may run."""
        if heir is not None:
            await heir.in_office.wait()
            if not await office.enter():
                heir.fail(fleet, "the running service has given the hand-over up, and goes on")
                return
        nursery.start_soon(answer_commands)
        keep_sockets()
        with office.duties:
            async with trio.open_nursery() as duties:
                duties.start_soon(reloads.run)
                duties.start_soon(SpoolImporter(paths.spool, store).run)
                duties.start_soon(announcer.run)

    async def answer_commands() -> None:
        with office.commands:
            await serve_admin(office.admin.sock, answer)

    stackdump.install("supervisor", on_signal=dump_workers)
    reloads.around(announcer.reload_begins, reload_ends)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(obey, early, on_reload=reload, on_stop=stop))
        nursery.start_soon(hub.run, answers)
        nursery.start_soon(conversations.run)
        nursery.start_soon(upgrades.run)
        nursery.start_soon(hold_office)
        if heir is not None and elder is not None:
            nursery.start_soon(
                partial(
                    heir.run, fleet, elder, office.lock, open_store=partial(store.open, check=False), on_reload=reload
                )
            )
        await fleet.run()
        if heir is not None and heir.taken and elder is not None:
            await elder.wait_gone()
        await upgrades.flush()
        nursery.cancel_scope.cancel()
    if heir is not None and heir.failure is not None:
        return heir.failure
    if fleet.failure is not None:
        return f"no worker ever got ready, so the service gives up: {fleet.failure}"
    return None


def _raise_fd_limit() -> None:
    """As many descriptors as we may have; the fork server and all workers inherit the limit."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FDS if hard == resource.RLIM_INFINITY else min(hard, _MAX_FDS)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _close_store(store: Store) -> None:
    if not store.close(STORE_TIMEOUT):
        log.error("records_lost", **msgspec.structs.asdict(store.status()))
