"""The commands that show live streams and the history, on a service at work, and after its end."""

import csv
import json
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
import trio
from fakes.load import Client, chat, complete
from fakes.openai_upstream import marker
from fakes.service import MARK, Service, wait_until
from fakes.terminal import Terminal

pytestmark = pytest.mark.integration

SLOW = "fake/slow-20+text-2000"


def person(service: Service) -> dict[str, str]:
    """The environment of somebody who uses the service, and is no part of it."""
    return {name: value for name, value in service.env.items() if name != MARK} | {"TERM": "xterm"}


async def run(service: Service, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """`kimi-proxy …` for this service."""
    done = await trio.run_process(
        [sys.executable, "-m", "supervisor", *arguments],
        env=person(service),
        cwd=service.folder,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    told = subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
    assert told.returncode == code, told.stderr
    return told


async def ask(port: int, trace: str, model: str, **headers: str) -> None:
    """One client, who reads its answer to the end."""
    async with Client(port) as client:
        response = await client.post(chat(model, trace), headers={"x-request-id": trace, **headers})
        await response.read()


async def live(service: Service, count: int) -> list[dict]:
    """Wait for as many live streams, all of which have come to their text; as `sessions --json` shows them."""

    async def found() -> list[dict]:
        sessions = json.loads((await run(service, "sessions", "--json")).stdout)["sessions"]
        return sessions if len(sessions) == count and all(session["tokens"] for session in sessions) else []

    return await wait_until(found, f"{count} live streams")


async def test_live_streams_are_shown_and_cancelled(service, port, upstream):
    marks = [marker("shown") for _ in range(4)]
    async with trio.open_nursery() as nursery:
        for mark in marks:
            nursery.start_soon(lambda mark: ask(port, mark, SLOW, **{"x-session-id": f"key of {mark}"}), mark)
        by_trace = {session["trace"]: session for session in await live(service, 4)}
        assert set(by_trace) == set(marks)

        table = (await run(service, "sessions")).stdout.splitlines()
        assert len(table) == 5
        assert {line.split()[0] for line in table[1:]} == {session["id"] for session in by_trace.values()}
        frame = (await run(service, "top", "--once")).stdout
        assert all(session["id"] in frame for session in by_trace.values())

        one, other, *rest = (by_trace[mark] for mark in marks)
        assert (await run(service, "sessions", "cancel", one["id"])).stdout == f"{one['id']}\n"
        assert (await run(service, "sessions", "cancel", other["session"])).stdout == f"{other['id']}\n"
        for session in (one, other):
            record = await service.record(session["trace"])
            assert (record["status"], record["error_type"]) == ("cancelled", "admin")
        gone = await run(service, "sessions", "cancel", one["id"], code=1)
        assert "no live stream or session is called" in gone.stderr

        assert (await run(service, "sessions", "cancel", "--stale")).stdout == ""
        await live(service, 2)
        told = (await run(service, "sessions", "cancel", "--stale", "--idle", "0")).stdout.split()
        assert set(told) == {session["id"] for session in rest}
    assert (await run(service, "sessions")).stderr == "kimi-proxy: no live streams\n"


async def test_the_history_while_serving_and_afterwards(service, port, upstream, tmp_path):
    await complete(port, 30)
    await service.wait_records(30)
    totals = []

    async def look() -> None:
        told = json.loads((await run(service, "stats", "--by", "provider", "--json")).stdout)
        assert [group["key"] for group in told["groups"]] == ["fake"]
        totals.append(told["totals"])
        rows = list(csv.DictReader((await run(service, "export")).stdout.splitlines()))
        assert {row["id"] for row in rows} == {record["id"] for record in service.records()}
        assert json.loads((await run(service, "export", "--format", "json", "--status", "failed")).stdout) == []

    await look()
    async with trio.open_nursery() as nursery:
        # Copies of a database that is written to meanwhile.
        nursery.start_soon(complete, port, 30)
        for number in range(3):
            copy = tmp_path / f"copy-{number}.db"
            assert (await run(service, "backup", str(copy))).stdout == f"{copy}\n"
            with closing(sqlite3.connect(copy)) as database:
                assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                assert 30 <= database.execute("SELECT count(*) FROM streams").fetchone()[0] <= 60
    await service.wait_records(60)
    await service.stop()
    await look()
    assert [sums["streams"] for sums in totals] == [30, 60]
    assert totals[1]["completion_tokens"] == 2 * totals[0]["completion_tokens"] > 0
    assert "not running" in (await run(service, "sessions", code=1)).stderr
    assert "not running" in (await run(service, "top", code=1)).stderr


async def test_top_in_a_terminal_through_a_restart(service, port, upstream):
    mark = marker("watched")
    with Terminal(160, 40) as terminal:

        async def shown(*texts: str) -> None:
            await trio.to_thread.run_sync(
                terminal.wait, lambda: all(text in terminal.text for text in (*texts, "kimi-proxy"))
            )

        top = terminal.run([sys.executable, "-m", "supervisor", "top"], person(service))
        await shown("2 of 2 serving", "fake", "healthy")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: ask(port, mark, SLOW, **{"x-session-id": mark[:20]}))
            await shown("1 active", mark[:20])
            assert (await run(service, "sessions", "cancel", mark[:20])).stdout
        await shown("0 active, 0 completed, 1 cancelled")
        await service.stop()
        await shown("not running; start it with: kimi-proxy start")
        service.launch()
        await service.wait_ready()
        await shown("0 active, 0 completed, 0 cancelled")
        terminal.type(b"q")
        assert await trio.to_thread.run_sync(terminal.wait_exit, top) == 0
        assert terminal.settings_now() == terminal.settings
