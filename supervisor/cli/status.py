"""`kimi-proxy status`."""

import argparse
import os
import time

from supervisor.cli.client import NotRunningError, control_paths
from supervisor.cli.live import ask_status, finishing
from supervisor.cli.out import show_json
from supervisor.cli.text import duration, say, size, table
from supervisor.control import ProviderStatus, StatusReply, WorkerStatus

NOT_RUNNING = 3


def status(arguments: argparse.Namespace) -> int:
    """Show the service at a glance, or as JSON (durations in seconds, sizes in bytes, times in epoch seconds)."""
    try:
        reply = ask_status(control_paths(os.environ))
    except NotRunningError as error:
        say(str(error))
        return NOT_RUNNING
    if arguments.json:
        show_json(reply)
    else:
        print(render(reply, time.time()))
    return 0


def render(reply: StatusReply, now: float) -> str:
    """The status as text; problems stand in lines of their own, before the tables.  `now` in epoch seconds."""
    facts = [
        ("state", f"{reply.state} for {duration(reply.uptime)} (pid {reply.pid})"),
        ("serves", ", ".join(reply.bind)),
        ("config", f"{reply.config_source or 'built in'}, loaded {duration(max(0.0, now - reply.config_loaded))} ago"),
    ]
    if reply.config_error:
        facts.append(("refused", f"{reply.config_error} (the configuration before it is in force)"))
    if reply.crash_loop:
        facts.append(("crashes", reply.crash_loop))
    if reply.storage.problem:
        storage = reply.storage
        facts.append(
            ("storage", f"{storage.problem} ({storage.path}; {storage.buffered} waiting, {storage.lost} lost)")
        )
    totals = reply.totals
    facts += [
        (
            "streams",
            f"{totals.active} active, {totals.completed} completed, {totals.cancelled} cancelled, "
            f"{totals.failed} failed of {totals.started}",
        ),
        ("tokens", f"{totals.prompt_tokens} prompt, {totals.completion_tokens} completion"),
    ]
    serving = sum(worker.state == "serving" for worker in reply.workers)
    facts.append(("workers", f"{serving} of {reply.workers_wanted} serving"))
    for elder in reply.elders:
        facts.append(("elder", finishing(elder)))
    blocks = [f"kimi-proxy {reply.version}", "\n".join(f"  {name:<8} {text}" for name, text in facts)]
    if reply.workers:
        blocks.append(_workers(reply.workers))
    if reply.providers:
        blocks.append(_providers(reply.providers))
    return "\n\n".join(blocks)


def _workers(workers: list[WorkerStatus]) -> str:
    return table(
        ("WORKER", "PID", "STATE", "UP", "STREAMS", "CONNECTIONS", "MEMORY", "LAG", "RESTARTS"),
        (
            (
                worker.worker,
                worker.pid,
                worker.state,
                duration(worker.uptime),
                worker.streams,
                worker.connections,
                size(worker.rss_bytes),
                f"{worker.lag * 1000:.0f} ms",
                worker.restarts,
            )
            for worker in workers
        ),
        right=(0, 1, 4, 5, 6, 7, 8),
    )


def _providers(providers: list[ProviderStatus]) -> str:
    return table(
        ("PROVIDER", "DIALECT", "KEY", "HEALTH", "ACTIVE", "COMPLETED", "CANCELLED", "FAILED", "LAST ERROR"),
        (
            (
                provider.name,
                provider.dialect,
                "yes" if provider.has_key else "no",
                provider.health,
                provider.active,
                provider.completed,
                provider.cancelled,
                provider.failed,
                provider.last_error or "",
            )
            for provider in providers
        ),
        right=(4, 5, 6, 7),
    )
