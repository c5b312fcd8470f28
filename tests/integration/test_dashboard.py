"""The dashboard in a real Chromium: live streams, the service's state, and what becomes of the connection."""

import json
import os
import signal
from functools import partial
from hashlib import sha256

import msgspec
import pytest
import trio
from fakes import gateway as in_process
from fakes.dashboard import MODELS, downloaded, ended, opened, rows, stream, streams
from fakes.service import config_text, run_service

from shared import events
from shared.messages import ActiveSessions, CancelSession, CancelStale, Happened, Overview

pytestmark = pytest.mark.integration

CONFIG = (
    MODELS
    + """
[providers.poor]
base_url = "ANTHROPIC_URL"
dialect = "anthropic"
max_retries = 0
"""
)
HOSTILE = "fake/slow-20+text-200+<img src=x onerror=document.title=1><script>document.title=2</script>"
KEY = "a-long-and-secret-key"
MOVING = """(() => {
    const cells = [...document.querySelectorAll('#live-table td')].map((cell) => cell.innerText);
    const [count, tiles] = ['#live-count', '#tiles'].map((place) => document.querySelector(place).innerText);
    return cells[3] > 5 && cells[4] > 5 && [cells, count, tiles, document.querySelectorAll('#live-chart path').length];
})()"""
"""What is seen of the only stream, once it has some tokens, and a rate."""
REMEMBER = """(() => {
    const line = document.querySelector('#connection-text');
    window.said = [];
    new MutationObserver(() => said.push(line.textContent)).observe(line, { childList: true, characterData: true });
})()"""
"""All that the line at the top says from now on, also for a moment."""


async def test_a_stream_from_its_start_to_the_history(browser, shared):
    async with opened(browser, shared.port) as page:
        await page.wait_text("#live", "No streams at the moment.")
        async with trio.open_nursery() as nursery:
            start = partial(stream, shared.port, "fake/slow-20+text-60", "from-start", **{"x-session-id": "from-start"})
            nursery.start_soon(start)
            await page.wait_text("#live-table", "fake/slow-20+text-60", "from-start")
            cells, count, tiles, lines = await page.wait(MOVING)
            assert cells[0].splitlines()[0] == "fake/slow-20+text-60"
            assert cells[2].endswith(" s")
            assert (count, lines) == ("1", 1)
            assert tiles.startswith("Live streams\n1\n")
        await page.wait_text("#live", "No streams at the moment.")
        record = await ended(page, shared.service, "from-start")
        await page.wait_text("#history-table", "from-start", "completed")
        await page.wait_text("#tiles", "Completed")
        await page.click("button", f"Details of {record['id']}")
        told = await page.wait_text("#record-facts", record["id"])
        assert f"{record['completion_tokens']} (provider)" in told
        await page.click("button", "Close")
        assert not await page.evaluate("document.querySelector('#record').open")


async def test_context_use_is_a_gauge_in_three_colours(browser, shared):
    asked = [("tight", "x" * size, f"gauge-{size}") for size in (1000, 2600, 3600)]
    async with opened(browser, shared.port) as page, streams(shared.port, *asked):
        await page.wait_text("#live-table", *(session for *_, session in asked))
        gauge = "{ kind: gauge.classList[1], now: +gauge.ariaValueNow, most: +gauge.ariaValueMax, role: gauge.role }"
        gauges = await page.evaluate(
            "Object.fromEntries([...document.querySelectorAll('#live-table tr')].slice(1).map((row) => {"
            f" const gauge = row.querySelector('.gauge'); return [row.cells[1].innerText, {gauge}] }}))"
        )
        assert {session: gauge["kind"] for session, gauge in gauges.items()} == {
            "gauge-1000": "good",
            "gauge-2600": "warn",
            "gauge-3600": "bad",
        }
        for gauge in gauges.values():
            assert (gauge["role"], gauge["most"]) == ("meter", 1000)
        colours = "[...document.querySelectorAll('.gauge > span')].map((bar) => getComputedStyle(bar).backgroundColor)"
        assert len(set(await page.evaluate(colours))) == 3
        await page.find("meter", "Context use", 2)


async def test_a_stream_is_cancelled_by_two_clicks(browser, shared):
    asked = [("roomy", "hi", "keep"), ("fake/slow-40+text-2000", "hi", "end")]
    async with opened(browser, shared.port) as page, streams(shared.port, *asked):
        await page.wait_text("#live-table", "keep", "end")
        this = "fake/slow-40+text-2000, session end"
        await page.click("button", f"Cancel {this}")
        await page.find("button", f"Really cancel? {this}")
        await page.click("button", "Cancel roomy, session keep")  # whoever goes elsewhere did not mean it
        await page.find("button", f"Cancel {this}")
        assert len(await rows(page, "live-table")) == 2
        await page.click("button", f"Cancel {this}")
        await page.click("button", f"Really cancel? {this}")
        await page.wait("document.querySelectorAll('#live-table tbody tr').length === 1")
        assert "keep" in await page.text("#live-table")
        record = await ended(page, shared.service, "end")
        await page.wait_text("#history-table", "cancelled", "admin")
    assert (record["status"], record["error_type"]) == ("cancelled", "admin")


async def test_stale_streams_are_cancelled(browser, shared):
    asked = [("fake/hang-after-3", "hi", "stuck"), ("roomy", "hi", "moves")]
    async with streams(shared.port, *asked), opened(browser, shared.port) as page:
        await page.wait_text("#live-table", "stuck", "moves")
        await page.evaluate("document.querySelector('#stale-after option').value = 4")  # in the place of 10
        await page.choose("Stale after", "10 s")
        await page.click("button", "Cancel stale (1)")
        await page.click("button", "Really cancel?")
        await page.wait("document.querySelectorAll('#live-table tbody tr').length === 1")
        assert "moves" in await page.text("#live-table")
        await page.find("button", "Cancel stale (0)")
        assert await page.evaluate("document.querySelector('#cancel-stale').disabled")


async def test_what_others_write_is_text(browser, shared):
    asked = [(HOSTILE, "hi", "<b>bold</b>")]
    async with opened(browser, shared.port) as page:
        async with streams(shared.port, *asked):
            await page.wait_text("#live-table", HOSTILE, "<b>bold</b>")
        record = await ended(page, shared.service, "<b>bold</b>")
        await page.wait_text("#history-table", HOSTILE, "<b>bold</b>")
        await page.click("radio", "Model")
        await page.wait_text("#costs-table", HOSTILE)
        await page.click("button", f"Details of {record['id']}")
        await page.wait_text("#record-facts", HOSTILE)
        assert await page.evaluate("document.title") == "kimi-proxy"
        assert await page.evaluate("document.querySelectorAll('img, main script, dialog script, main b').length") == 0


async def test_a_provider_in_trouble(browser, shared):
    async with opened(browser, shared.port) as page:
        assert "Degraded" not in await page.wait_text("#providers", "poor", "Healthy")
        for number in range(7):
            await stream(shared.port, "poor/status-503", **{"x-session-id": f"trouble-{number}"})
        await page.wait_text("#providers", "Degraded", "HTTP_503", "answered with status 503")
        await ended(page, shared.service, "trouble-6")
        await page.wait_text("#history-table", "trouble-6", "failed", "HTTPStatusError")


async def test_configuration_and_workers(browser, shared):
    service = shared.service
    async with opened(browser, shared.port) as page:
        await page.wait_text("#service", str(service.config_file), "in force", "Worker 1", "Worker 2", "2 of 2 serve")
        good = service.config_file.read_text()
        service.write_config(good.replace("workers = 2", "wokers = 2"))
        await service.reload()
        await page.skip(5)
        await page.wait_text("#notices", "The newest configuration was refused", 'did you mean "workers"')
        await page.wait_text("#config-facts", "refused")
        service.write_config(good)
        await service.reload()
        await page.wait("document.querySelector('#notices').innerText === ''")
        [pid, _] = await service.worker_pids()
        os.kill(pid, signal.SIGKILL)
        await page.wait(f"!document.querySelector('#workers-table').innerText.includes('pid {pid}\\n')")
        await page.wait_text("#service-facts", "Restarts\n1", "2 of 2 serve")
        await page.wait_text("#connection", "Live")


async def test_it_reconnects_after_a_restart_of_the_service(browser, tmp_path, port, upstream):
    config = config_text(port, upstream.base_url, server={"graceful_timeout": 0.2})
    async with run_service(tmp_path, config) as service:
        page = await browser.page(f"http://127.0.0.1:{port}/")
        await page.wait_text("#connection", "Live")
        await page.evaluate(REMEMBER)
        await page.pace(0.001)  # so that it is the button that tries again
        await service.stop()
        await page.wait_text("#connection", "Connection lost, retry in ")
        await page.evaluate("said.length = 0")
        await page.click("button", "Reconnect now")
        await page.wait("said.includes('Connecting…')")
        await page.wait_text("#connection", "Connection lost, retry in ")
        service.launch()
        await service.wait_ready()
        await page.click("button", "Reconnect now")
        await page.wait_text("#connection", "Live")
        async with streams(port, ("fake/slow-20+text-2000", "hi", "after")):
            await page.wait_text("#live-table", "after")
            await service.stop()
            await page.wait_text("#connection", "Connection lost")
            await page.pace(5)
            await page.click("button", "Reconnect now")  # in vain: it takes the slow timeout away
            service.launch()
            await page.wait_text("#connection", "Live", timeout=30)  # by itself
            await page.wait_text("#live", "No streams at the moment.")
        assert page.problems == []
        assert page.failed_requests


async def test_a_key_is_asked_for(browser, tmp_path, port, upstream):
    config = config_text(port, upstream.base_url, more=f'[auth]\nkeys = ["{KEY}"]')
    async with run_service(tmp_path, config) as service:
        await stream(port, "fake/text-5", authorization=f"Bearer {KEY}")
        page = await browser.page(f"http://127.0.0.1:{port}/", downloads=tmp_path)
        await page.wait_text("#key", "This gateway needs a key")
        await page.wait("document.activeElement.id === 'key-input'")
        await page.call("Input.insertText", text="nö key at all")
        await page.press("Enter")  # which no gateway could have
        assert await page.evaluate("document.querySelector('#key-input').validity.patternMismatch")
        await page.fill("textbox", "Key", "a-wrong-one")
        await page.press("Enter")
        await page.wait_text("#key-problem", "does not know this key")
        await page.click("button", "Not now")
        await page.wait_text("#connection", "A key is needed")
        await page.wait_text("#live", "Not known yet.")
        await page.wait_text("#history", "Not known yet.")
        assert (await page.text("#tiles")).split("\n")[1] == "–"
        problems = "[...document.querySelectorAll('main .problem')].map((one) => one.textContent).join('')"
        assert await page.evaluate(problems) == ""
        await page.click("button", "Enter key")
        await page.call("Input.insertText", text=f" {KEY} ")
        await page.press("Tab")
        assert await page.evaluate("document.activeElement.id") == "key-use"
        await page.press("Enter")
        await page.wait_text("#connection", "Live")
        await page.wait_text("#history-table", "fake/text-5")
        assert not await page.evaluate("document.querySelector('#key').open")
        await page.click("button", "Export JSON")
        [one] = json.loads((await downloaded(tmp_path, "json")).read_bytes())
        assert one["model"] == "fake/text-5"
        assert await page.evaluate("sessionStorage.length + localStorage.length") == 0
        assert await page.evaluate("document.cookie") == ""  # scripts can't see it
        await page.reload()
        await page.wait_text("#connection", "Live")
        fingerprint = sha256(KEY.encode()).hexdigest()[:12]
        await page.wait_text("#log-out", f"Log out {fingerprint}")
        await page.focus("button", f"Log out {fingerprint}")
        await page.press("Enter")
        await page.wait("document.activeElement?.id === 'key-input'")  # on a new page
        assert "fake/text-5" not in await page.evaluate("document.body.textContent")
        await page.press("Escape")
        await page.wait_text("#connection", "A key is needed")
        assert page.problems == []
        assert KEY not in service.log()


async def test_a_login_ends_with_its_key(browser, tmp_path, port, upstream):
    """In a browser that lets no page keep anything."""
    client = f'[auth.clients.night]\nkey = "{KEY}"\n[auth]\nkeys = ["another"]'
    async with run_service(tmp_path, config_text(port, upstream.base_url, more=client)) as service:
        page = await browser.page("about:blank")
        forbid = """for (const name of ["localStorage", "sessionStorage"])
            Object.defineProperty(window, name, { get() { throw new DOMException("no", "SecurityError"); } });"""
        await page.call("Page.addScriptToEvaluateOnNewDocument", source=forbid)
        await page.goto(f"http://127.0.0.1:{port}/")
        await page.wait_text("#key", "This gateway needs a key")
        await page.wait("document.activeElement.id === 'key-input'")
        await page.call("Input.insertText", text=KEY)
        await page.press("Enter")
        await page.wait_text("#connection", "Live")
        await page.wait_text("#log-out", "Log out night")
        await page.click("button", "Theme: auto")
        await page.wait_text("#theme", "Theme: light")
        service.write_config(config_text(port, upstream.base_url, more='[auth]\nkeys = ["another"]'))
        await service.reload()
        await page.wait_text("#connection", "A key is needed")
        await page.wait_text("#key", "This gateway needs a key")
        await page.wait("document.activeElement.id === 'key-input'")
        await page.call("Input.insertText", text=KEY)
        await page.press("Enter")
        await page.wait_text("#key-problem", "does not know this key")
        assert page.problems == []
        assert KEY not in service.log()


def a_session(id: str, **more: object) -> dict[str, object]:
    """A live stream, as a supervisor would tell of it."""
    known = {"id": id, "trace": id, "session": None, "client": None, "worker": 1, "provider": "one", "model": id}
    how = {"dialect": "openai", "streaming": True, "context_size": None, "prompt_estimate": None, "started": 1.0}
    moved = {"age": 1.0, "idle": 0.0, "tokens": 1, "received_bytes": 1, "tokens_per_second": 1.0}
    return {**known, **how, **moved, **more}


async def test_it_says_when_it_is_behind(browser, monkeypatch):
    """Before a worker whose supervisor is the test's: events are lost, and then there are none."""
    monkeypatch.setattr(in_process, "TIMEOUT", 60.0)
    live = [a_session("before")]

    def answer(question) -> tuple[int, bytes] | None:
        if question == ActiveSessions():
            return 200, msgspec.json.encode({"sessions": live, "active": len(live)})
        return (503, b'{"message": "not now"}') if question == Overview() else None

    async with in_process.serve_gateway(in_process.make_config()) as gateway:
        gateway.answer = answer
        page = await browser.page(f"http://127.0.0.1:{gateway.port}/")
        await page.wait_text("#live-table", "before")
        await page.wait_text("#service-problem", "not now")
        await page.evaluate(REMEMBER)
        live.append(a_session("missed"))
        recovered = events.encode(events.ProviderRecovered(timestamp=1.0, provider="one"))
        gateway.gateway.listeners.take(Happened((recovered,), lost=3))
        await page.wait_text("#connection", "caught up")
        await page.wait_text("#live-table", "before", "missed")
        assert "Behind: 3 events lost" in await page.evaluate("said")

        await page.skip(6)
        await page.wait_text("#connection", "Behind: nothing heard for")
        assert await page.evaluate("document.querySelector('#connection').dataset.state") == "behind"
        live.clear()  # the silence has a reason
        await page.skip(4)
        await page.wait_text("#connection", "Live")
        await page.wait_text("#live", "No streams at the moment.")

        # Progress of a stream that nobody has told of.
        live.append(a_session("unknown"))
        moving = events.Moving(id="unknown", tokens=5, tokens_per_second=2.0, received_bytes=9, age=1.0)
        told = events.Progress(timestamp=1.0, streams=(moving,), tokens=5, tokens_per_second=2.0, active=1)
        gateway.gateway.listeners.take(Happened((events.encode(told),), lost=0))
        await page.wait_text("#live-table", "unknown")
        assert page.problems == []
        await page.goto("about:blank")


async def test_many_live_streams(browser, monkeypatch):
    """Before such a worker: as many as there may be, and what the buttons ask for."""
    monkeypatch.setattr(in_process, "TIMEOUT", 60.0)
    live = [a_session(f"stream-{number}", age=1000.0 - number, idle=number % 20) for number in range(1234)]
    asked = []

    def answer(question) -> tuple[int, bytes] | None:
        if question == ActiveSessions():
            return 200, msgspec.json.encode({"sessions": live, "active": len(live)})
        if isinstance(question, CancelStale | CancelSession):
            asked.append(question)
            return (200, b"{}") if isinstance(question, CancelStale) else (503, b'{"message": "too busy"}')
        return None

    async with in_process.serve_gateway(in_process.make_config()) as gateway:
        gateway.answer = answer
        page = await browser.page(f"http://127.0.0.1:{gateway.port}/")
        await page.wait_text("#live-table", "stream-0\n", "stream-199\n", "and 1,034 more", "idle 10 s")
        assert len(await rows(page, "live-table")) == 200
        assert await page.text("#live-count") == "1,234"
        # The sections below stay in reach.
        assert await page.evaluate("document.querySelector('#live-table').offsetHeight") < 700
        await page.choose("Stale after", "10 s")
        await page.wait("/^Cancel stale \\([56]\\d\\d\\)$/.test(document.querySelector('#cancel-stale').textContent)")
        await page.evaluate("document.querySelector('#cancel-stale').click()")
        await page.click("button", "Really cancel?")
        await page.wait("!document.querySelector('#cancel-stale').classList.contains('sure')")
        await page.click("button", "Cancel stream-3")
        await page.click("button", "Really cancel? stream-3")
        await page.wait_text("#live-problem", "too busy")
        assert asked == [CancelStale(10.0), CancelSession("stream-3")]
        assert page.problems == []
        await page.goto("about:blank")
