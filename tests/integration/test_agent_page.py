"""The example page of the agent in a real Chromium: live deltas, tools, cancellation, over SSE and over a WebSocket."""

import functools
import http.server
import json
import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest
from fakes.browser import Browser, Page
from fakes.dashboard import WIDTHS
from fakes.looks import WRONG
from fakes.openai_upstream import OpenAIUpstream
from fakes.service import Service, config_text, free_port, run_service, wait_until

pytestmark = pytest.mark.integration

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
KEY = "a-long-and-secret-key"
TRANSPORTS = ("sse", "websocket")
REMEMBER = """(() => {
    window.said = [];
    const text = (selector) => document.querySelector(selector)?.innerText ?? '';
    const note = () => said.push([text('#status'), text('.run')]);
    new MutationObserver(note).observe(document.body, { childList: true, characterData: true, subtree: true });
})()"""
"""All that is seen of the first run, from now on, also for a moment."""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """The test looks at the page."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The examples, as any static server serves them: its origin."""
    handler = functools.partial(Quiet, directory=str(EXAMPLES))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@dataclass
class Agent:
    """A service with an agent in a folder of its own, to whom the page may talk."""

    browser: Browser
    service: Service
    upstream: OpenAIUpstream
    workspace: Path
    site: str
    port: int

    @asynccontextmanager
    async def opened(self, model: str, transport: str = "sse", **how: object) -> AsyncIterator[Page]:
        query = {"gateway": f"http://127.0.0.1:{self.port}", "model": f"fake/{model}", "transport": transport}
        page = await self.browser.page(f"{self.site}/agent.html?{urlencode(query)}", **how)
        yield page
        assert page.problems == []


def settings(workspace: Path, site: str, more: str = "") -> str:
    return f"""
[agent]
enabled = true
workspace = "{workspace}"
sandbox = "off"
[cors]
origins = ["{site}"]
{more}
"""


@pytest.fixture
async def agent(tmp_path, browser, upstream, site) -> AsyncIterator[Agent]:
    workspace, port = tmp_path / "workspace", free_port()
    workspace.mkdir()
    config = config_text(
        port, upstream.base_url, provider={"backoff_base": 0.0}, more=settings(workspace.resolve(), site)
    )
    async with run_service(tmp_path, config) as service:
        yield Agent(browser, service, upstream, workspace, site, port)


async def ask(page: Page, text: str) -> None:
    await page.fill("textbox", "Message", text)
    await page.click("button", "Send")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_deltas_are_live(agent, transport):
    async with agent.opened("slow-40+text-120", transport) as page:
        await ask(page, "Tell me something <b>long</b>.")
        await page.wait_text(".user", "Tell me something <b>long</b>.")
        lengths = [len(await page.wait_text(".run p", "the quick"))]
        await page.find("button", "Cancel")
        for _ in range(3):
            await page.wait(f"document.querySelector('.run p').innerText.length > {lengths[-1]}")
            lengths.append(len(await page.text(".run p")))
        assert await page.text("#status") == "Answering…"
        told = await page.wait_text(".run .note", "Done after", timeout=30)
        assert "first event after" in told
        assert re.search(r"more than \d+ tokens", told)
        assert "naïve 日本 🎉" in await page.text(".run p")
        await page.find("button", "Send")
        assert await page.evaluate("document.activeElement.id") == "message"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_tools_are_shown(agent, transport):
    (agent.workspace / "notes.txt").write_text("buy milk\n")
    calls = '[[tool:Read {"file_path": "notes.txt"}]] [[tool:Bash {"command": "sleep 0.3; echo done"}]]'
    async with agent.opened("tools-parallel+slow-30", transport) as page:
        await page.evaluate(REMEMBER)
        await ask(page, f"Read it, and run it: {calls}")
        await page.wait_text(".run .note", "Done after")
        said = await page.evaluate("said.map(([status]) => status)")
        order = [
            said.index(status) for status in ("Asking…", "Thinking…", "Executing Read, Bash…", "Answering…", "Done")
        ]
        assert order == sorted(order)
        tools = await page.evaluate("[...document.querySelectorAll('.tools li')].map((item) => item.innerText)")
        assert [tool.split()[0] for tool in tools] == ["Read", "Bash"]
        assert all(tool.endswith((" ms", " s")) for tool in tools)
        assert await page.text(".run p") == "final answer after tool"
        shown = await page.evaluate("said.map(([, run]) => run).join()")
        assert "Bash…" in shown  # while it ran
    [second] = agent.upstream.rows_with("buy milk")
    assert "done" in json.dumps(second.body["messages"])


@pytest.mark.parametrize(("transport", "reason"), [("sse", "client_disconnect"), ("websocket", "client_cancel")])
async def test_the_cancel_button(agent, transport, reason):
    async with agent.opened("slow-20+text-2000", transport) as page:
        await ask(page, "Go on and on.")
        await page.wait_text(".run p", "the quick")
        await page.click("button", "Cancel")
        await page.wait_text(".run .note", "Cancelled after")
        assert await page.text("#status") == "Cancelled"
        [record] = await agent.service.wait_records(1)
        assert (record["status"], record["error_type"]) == ("cancelled", reason)
        [row] = agent.upstream.log
        await wait_until(lambda: row.outcome == "client_closed")
        # Another one goes on after it.
        await page.evaluate("document.querySelector('#model').value = 'fake/text-3'")
        await ask(page, "And now briefly.")
        await page.wait_text(".run:last-child .note", "Done after")


async def test_the_cancel_button_ends_a_tool(agent):
    mark = agent.workspace / "started"
    async with agent.opened("tools", "sse") as page:
        await ask(page, f'[[tool:Bash {{"command": "trap \'\' TERM; touch {mark}; sleep 1000"}}]]')
        await page.wait_text(".tools", "Bash…")
        await wait_until(mark.exists)
        await page.click("button", "Cancel")
        await page.wait_text(".run .note", "Cancelled after")

    def asleep() -> bool:
        return any("sleep 1000" in " ".join(process.cmdline()) for process in agent.service.processes())

    await wait_until(lambda: not asleep(), "the end of Bash")


async def test_a_session_goes_on_until_a_new_one(agent):
    async with agent.opened("text-3") as page:
        for text in ("my name is Ada", "what is my name?"):
            await ask(page, text)
            await page.wait_text(".run:last-child .note", "Done after")
        assert len(agent.upstream.rows_with("my name is Ada")) == 2
        await page.click("button", "New session")
        await page.wait("document.querySelectorAll('.said').length === 0")
        await ask(page, "who am I?")
        await page.wait_text(".run .note", "Done after")
        assert len(agent.upstream.rows_with("my name is Ada")) == 2


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_what_goes_wrong_is_told(agent, transport):
    async with agent.opened("status-400", transport) as page:
        await ask(page, "hi")
        await page.wait_text(".run .note", "Failed: ", "400")
        await page.evaluate("document.querySelector('#model').value = 'nobody/nothing'")
        await ask(page, "hi")
        await page.wait_text(".run:last-child .note", "Failed: ", "does not exist here")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_page_of_elsewhere_is_told_how_it_may_ask(agent, transport):
    agent.site = agent.site.replace("127.0.0.1", "localhost")
    page = await agent.browser.page(
        f"{agent.site}/agent.html?gateway=http://127.0.0.1:{agent.port}&transport={transport}"
    )
    await ask(page, "hi")
    await page.wait_text(".run .note", "Failed: ", f'"{agent.site}"', "[cors] origins")
    assert agent.upstream.log == []


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_key(agent, transport):
    text = agent.service.config_file.read_text()
    agent.service.write_config(f'{text}\n[auth]\nkeys = ["{KEY}"]\n')
    await agent.service.reload()
    async with agent.opened("text-3", transport) as page:
        await page.click("DisclosureTriangle", "Settings")
        if transport == "sse":  # a refused WebSocket tells a page nothing
            await ask(page, "hi")
            await page.wait_text(".run .note", "Failed: ", "a valid key of this gateway is needed")
            page.failed_requests.clear()
        await page.fill("textbox", "Key", KEY)
        await ask(page, "hi")
        await page.wait_text(".run:last-child .note", "Done after")
    assert KEY not in agent.service.log()


async def test_it_fits_and_can_be_read(agent):
    (agent.workspace / "a").write_text("x")
    async with agent.opened("tools-parallel") as page:
        await ask(page, 'Look: [[tool:Read {"file_path": "a"}]] [[tool:Read {"file_path": "b"}]] ' + "long" * 60)
        await page.wait_text(".run .note", "Done after")
        await page.click("DisclosureTriangle", "Settings")
        for device, (width, height) in WIDTHS.items():
            await page.resize(width, height)
            for dark in (False, True):
                await page.set_dark(dark)
                for name, wrong in WRONG.items():
                    assert await page.evaluate(wrong) == [], (device, dark, name)
        for width in (320, 360, 700, 1280):
            await page.resize(width, 800)
            assert await page.evaluate("document.documentElement.scrollWidth") == width
