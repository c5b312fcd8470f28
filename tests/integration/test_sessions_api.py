"""Live streams over HTTP: what any worker tells of all of them, and cancelling those of another one."""

import pytest
import trio
from fakes.load import Client, chat
from fakes.service import wait_until
from fakes.sessions_api import active, call

pytestmark = pytest.mark.integration


async def test_streams_of_all_workers_are_listed_and_cancelled(service, port, upstream):
    bodies: dict[str, bytes] = {}

    async def ask(trace: str, model: str, **headers: str) -> None:
        async with Client(port) as client:
            response = await client.post(chat(f"fake/{model}", trace), headers={"x-request-id": trace, **headers})
            bodies[trace] = await response.read()

    async def is_over(trace: str) -> dict:
        await wait_until(lambda: trace in bodies, f"the end of {trace}")
        assert b'"error"' in bodies[trace]
        assert b"[DONE]" not in bodies[trace]
        record = await service.record(trace)
        assert (record["status"], record["error_type"]) == ("cancelled", "admin")
        await wait_until(lambda: upstream.rows(trace)[0].outcome == "client_closed", "the upstream's end")
        return record

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(ask, f"slow-{number}", "slow-20+text-2000")
        for number in range(2):
            group = {"x-claude-code-session-id": "team", "x-session-id": f"key/{number}"}
            nursery.start_soon(lambda n, h: ask(f"keyed-{n}", "slow-20+text-2000", **h), number, group)
        nursery.start_soon(ask, "stuck", "hang-after-3")

        async def all_move() -> bool:
            live = await active(port)
            return len(live) == 9 and all(session["tokens"] for session in live.values())

        await wait_until(all_move, "nine live streams")
        live = await active(port)
        one = live["slow-0"]
        assert (one["provider"], one["model"], one["dialect"]) == ("fake", "fake/slow-20+text-2000", "openai")
        assert one["received_bytes"] > one["tokens"] > 0
        assert one["age"] > 0
        assert {session["worker"] for session in live.values()} <= {1, 2}

        status, body = await call(port, "DELETE", f"/api/sessions/{one['id']}")
        assert (status, body) == (200, {"cancelled": [one["id"]]})
        await is_over("slow-0")
        status, body = await call(port, "DELETE", f"/api/sessions/{one['id']}")
        assert status == 404
        assert one["id"] in body["error"]["message"]

        status, body = await call(port, "DELETE", "/api/sessions/key%2F1")
        assert (status, body) == (200, {"cancelled": [live["keyed-1"]["id"]]})
        await is_over("keyed-1")

        async def is_idle() -> bool:
            return (await active(port))["stuck"]["idle"] > 3.0

        await wait_until(is_idle, "a stream that has not moved for three seconds")
        status, body = await call(port, "DELETE", "/api/sessions/stale?idle=3")
        assert (status, body) == (200, {"cancelled": [live["stuck"]["id"]], "idle": 3.0})
        await is_over("stuck")

        live = await active(port)
        assert set(live) == {"keyed-0", *(f"slow-{number}" for number in range(1, 6))}
        for session in live.values():
            status, _ = await call(port, "DELETE", f"/api/sessions/{session['id']}")
            assert status == 200

    async def is_quiet() -> bool:
        return not await active(port)

    await wait_until(is_quiet, "no live streams")
    status, body = await call(port, "GET", "/api/sessions/active")
    assert body["totals"]["cancelled"] == 9

    status, body = await call(port, "GET", "/api/status")
    assert status == 200
    assert [worker["state"] for worker in body["workers"]] == ["serving", "serving"]
    assert sum(minute["cancelled"] for minute in body["recent"]) == 9
