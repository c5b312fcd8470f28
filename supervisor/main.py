"""The composition root of the service: what is set up in which order, and the one nursery of named tasks.

Everything that can fail, and everything that blocks or forks, happens before trio runs; a fork made inside a running
trio could not start trio again.
"""

import contextlib
import os
import resource
import socket
from collections.abc import Mapping
from functools import partial
from typing import assert_never

import msgspec
import trio

from shared import VERSION, logs, stackdump
from shared.config.locate import load_config
from shared.errors import StartError
from shared.keys import key_variables, resolve_keys
from shared.logs import get_logger
from shared.paths import Paths, prepare, resolve_paths
from shared.privacy import hide_memory
from supervisor.admin import close_admin_socket, open_admin_socket, serve_admin
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
)
from supervisor.conversations import Conversations
from supervisor.fleet import Fleet, Settings
from supervisor.forkserver import ForkServer
from supervisor.hub import Hub
from supervisor.instance import InstanceLock
from supervisor.ledger import Ledger
from supervisor.listen import close_listeners, open_listeners, refuse_exposed
from supervisor.reload import Reloader, Reloads
from supervisor.sdnotify import Notifier, watchdog_interval
from supervisor.signals import SignalsBeforeTrio, obey
from supervisor.spool import SpoolImporter
from supervisor.state import ServiceState
from supervisor.store import Store

STORE_TIMEOUT = 10.0
"""How long the last records may take to reach the disk."""
_MAX_FDS = 1 << 20

log = get_logger()


def run(config_option: str | None = None, *, fork_server: ForkServer | None = None) -> int:
    """Be the service until a signal ends it; the exit code.

    `ConfigError` or `StartError` if it can't start, or never gets a worker ready.  Tests pass a `fork_server` whose
    workers are theirs.
    """
    with contextlib.ExitStack() as stack:
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
        for warning in loaded.warnings:
            log.warning("config_warning", message=warning)
        _raise_fd_limit()

        paths = resolve_paths(os.environ)
        prepare(paths)
        stack.enter_context(InstanceLock.acquire(paths.instance_lock))
        store = Store(paths.database, config.storage, keep_conversations=config.agent.keep_conversations)
        store.open()
        stack.callback(_close_store, store)
        notifier = Notifier()
        stack.callback(notifier.close)
        admin_socket = open_admin_socket(paths.admin_socket)
        stack.callback(close_admin_socket, admin_socket, paths.admin_socket)
        with contextlib.ExitStack() as unless_served:
            listeners = open_listeners(config.server.bind, tcp_user_timeout=config.server.tcp_user_timeout)
            unless_served.callback(close_listeners, listeners)
            refuse_exposed(listeners, config.auth)
            fork_server = fork_server or ForkServer()
            if not fork_server.launch():
                log.warning("worker_preload_missed", effect="every worker imports its code for itself")
            early.hold()
            unless_served.pop_all()
        settings = Settings(config=config, keys=keys, listeners=tuple(listeners))
        failure = trio.run(
            _serve, settings, paths, fork_server, store, notifier, admin_socket, early, config_option, env
        )
        log.info("service_stop", pid=os.getpid())
    if failure is not None:
        raise StartError(f"no worker ever got ready, so the service gives up: {failure}")
    return 0


async def _serve(
    settings: Settings,
    paths: Paths,
    fork_server: ForkServer,
    store: Store,
    notifier: Notifier,
    admin_socket: socket.socket,
    early: SignalsBeforeTrio,
    config_option: str | None,
    env: Mapping[str, str],
) -> str | None:
    """Run all tasks until the fleet has ended; why it gave up, or None if it was stopped."""
    ledger = Ledger()
    hub = Hub(settings.config, ledger)
    fleet = Fleet(fork_server, settings, ledger=ledger, store=store, hub=hub, supervisor_pid=os.getpid(), paths=paths)
    reloader = Reloader(fleet, option=config_option, env=env, store=store, publish=hub.fanout.publish)
    reloads = Reloads(reloader.reload)
    state = ServiceState(fleet=fleet, reloads=reloads, reloader=reloader, ledger=ledger, store=store, hub=hub)
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
    announcer = Announcer(notifier, fleet, state, watchdog_interval=interval)
    reloads.around(announcer.reload_begins, announcer.reload_ends)

    def stop() -> None:
        """The first signal drains, a second one shortens the wait to the streams' cancel grace."""
        if not fleet.stopping:
            log.info("service_stopping", timeout=fleet.settings.config.server.graceful_timeout)
            announcer.stopping()
            fleet.stop(fleet.settings.config.server.graceful_timeout)
        else:
            fleet.stop(0.0)

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
            case _:
                assert_never(request)

    def dump_workers() -> None:
        fleet.dump_stacks()

    stackdump.install("supervisor", on_signal=dump_workers)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(obey, early, on_reload=reloads.request_nowait, on_stop=stop))
        await nursery.start(serve_admin, admin_socket, answer)
        nursery.start_soon(hub.run, answers)
        nursery.start_soon(conversations.run)
        nursery.start_soon(reloads.run)
        nursery.start_soon(SpoolImporter(paths.spool, store).run)
        nursery.start_soon(announcer.run)
        await fleet.run()
        nursery.cancel_scope.cancel()
    return fleet.failure


def _raise_fd_limit() -> None:
    """As many descriptors as we may have; the fork server and all workers inherit the limit."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FDS if hard == resource.RLIM_INFINITY else min(hard, _MAX_FDS)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _close_store(store: Store) -> None:
    if not store.close(STORE_TIMEOUT):
        log.error("records_lost", **msgspec.structs.asdict(store.status()))
