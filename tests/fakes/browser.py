"""A real Chromium without a window, driven as a person would: by what has a role and a name, and can be seen.

    async with open_browser(chromium) as browser:
        page = await browser.page(f"http://127.0.0.1:{port}/", width=360, dark=True)
        await page.click("button", "Export CSV")

It is spoken to in Chrome's DevTools protocol over `fakes.ws`: a call is `{id, method, params, sessionId}`, its answer
has the same id, and what has none is an event.
"""

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import trio
from fakes import ws
from fakes.service import wait_until
from wsproto.events import TextMessage

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--headless=new",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
    "--password-store=basic",
    "--no-proxy-server",
]
CALL_TIMEOUT = 60.0
KEYS = {
    "Tab": (9, ""),
    "Enter": (13, "\r"),
    "Escape": (27, ""),
    " ": (32, " "),
    "End": (35, ""),
    "Home": (36, ""),
    "ArrowLeft": (37, ""),
    "ArrowUp": (38, ""),
    "ArrowRight": (39, ""),
    "ArrowDown": (40, ""),
}
"""Names → Windows' codes, and what they type."""
CTRL, SHIFT = 2, 8
CLOCK = """(() => {
    const [now, later, every] = [performance.now.bind(performance), setTimeout, setInterval];
    const beats = [];
    let ahead = 0;
    window.clock = {
        pace: 1,
        skip(seconds) {
            ahead += seconds * 1000;
            for (const beat of beats) beat();
        },
    };
    performance.now = () => now() + ahead;
    window.setTimeout = (act, milliseconds) => later(act, milliseconds / clock.pace);
    window.setInterval = (act, milliseconds) => {
        beats.push(act);
        return every(act, milliseconds);
    };
})()"""
"""Runs before the scripts of each page: its clock can be put forward, and its timeouts made to run faster or slower."""


@contextlib.contextmanager
def run_chromium(folder: Path) -> Iterator[str]:
    """A Chromium with its profile in `folder`, as the address of its DevTools: `PORT/path`."""
    assert PROGRAM is not None
    # Chromium's own sandbox can't be set up by root; everything it loads here is ours.
    alone = ["--no-sandbox"] if os.geteuid() == 0 else []
    environment = {**os.environ, "HOME": os.fspath(folder), "TZ": "UTC"}
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [PROGRAM, *ARGUMENTS, *alone, f"--user-data-dir={folder}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    try:
        yield trio.run(_address, process, folder)
    finally:
        children: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(process.pid).children(recursive=True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for child in psutil.wait_procs(children, timeout=5)[1]:
            child.kill()


async def _address(process: "subprocess.Popen[bytes]", folder: Path) -> str:
    told = folder / "DevToolsActivePort"

    def found() -> str | None:
        assert process.poll() is None, (folder / "chromium.log").read_text()
        lines = told.read_text().split() if told.exists() else []
        return "".join(lines) if len(lines) == 2 else None

    return await wait_until(found, "Chromium's DevTools", timeout=30)


class Browser:
    """One connection to Chromium; pages made by it are closed with it."""

    def __init__(self, client: ws.WebSocketClient) -> None:
        self._client = client
        self._ids = itertools.count(1)
        self._waiting: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}
        self._contexts: list[str] = []

    async def hear(self) -> None:
        """Give answers to those who wait, and events to their pages."""
        while True:
            told = await self._client.event()
            if "id" in told:
                if waiting := self._waiting.pop(told["id"], None):
                    waiting.send_nowait(told)
            elif page := self._pages.get(told.get("sessionId", "")):
                page.hear(told["method"], told["params"])

    async def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The answer to one command."""
        number = next(self._ids)
        send, receive = trio.open_memory_channel[dict[str, Any]](1)
        self._waiting[number] = send
        command = {"id": number, "method": method, "params": parameters}
        if session is not None:
            command["sessionId"] = session
        await self._client.send(TextMessage(json.dumps(command)))
        with trio.fail_after(CALL_TIMEOUT):
            answer = await receive.receive()
        assert "error" not in answer, (method, parameters, answer["error"])
        return answer["result"]

    async def page(
        self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False, downloads: Path | None = None
    ) -> "Page":
        """A page in a profile of its own, with nothing kept from others.  A width below 600 makes it a phone."""
        context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        self._contexts.append(context)
        if downloads is not None:
            await self.call(
                "Browser.setDownloadBehavior",
                behavior="allow",
                browserContextId=context,
                downloadPath=os.fspath(downloads),
            )
        target = await self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = Page(self, attached["sessionId"])
        self._pages[attached["sessionId"]] = page
        for domain in ("Page", "Runtime", "Log", "DOM", "Network"):
            await page.call(f"{domain}.enable")
        await page.call("Emulation.setTimezoneOverride", timezoneId="UTC")
        await page.call("Page.addScriptToEvaluateOnNewDocument", source=CLOCK)
        await page.resize(width, height)
        await page.set_dark(dark)
        await page.goto(url)
        return page

    async def close_pages(self) -> None:
        """And forget all that they kept."""
        for context in self._contexts:
            await self.call("Target.disposeBrowserContext", browserContextId=context)


class Page:
    """See the module.  What is sought is waited for."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.problems: list[str] = []
        """Errors on the console, exceptions, refusals by the page's own policy; but not requests that failed."""
        self.failed_requests: list[str] = []

    def hear(self, method: str, told: dict[str, Any]) -> None:
        match method:
            case "Runtime.exceptionThrown":
                details = told["exceptionDetails"]
                self.problems.append(details.get("exception", {}).get("description") or details["text"])
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning", "assert"):
                self.problems.append(str(told["args"]))
            case "Log.entryAdded" if told["entry"]["level"] in ("error", "warning"):
                entry = told["entry"]
                known = self.failed_requests if entry["source"] == "network" else self.problems
                known.append(f"{entry['text']} {entry.get('url', '')}")

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return await self._browser.call(method, self._session, **parameters)

    # How it is looked at

    async def goto(self, url: str) -> None:
        """Load it; scripts and all have run once."""
        answer = await self.call("Page.navigate", url=url)
        assert "errorText" not in answer, answer
        await self.wait("document.readyState === 'complete'")

    async def reload(self) -> None:
        await self.call("Page.reload")
        await trio.sleep(0.05)  # until then the old document would answer
        await self.wait("document.readyState === 'complete'")

    async def resize(self, width: int, height: int) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if width < 600 else 1,
            mobile=width < 600,
        )

    async def set_dark(self, dark: bool) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme, still])

    async def skip(self, seconds: float) -> None:
        """Put the page's clock forward; what it does at intervals it does now."""
        await self.evaluate(f"clock.skip({seconds})")

    async def pace(self, pace: float) -> None:
        """Have the timeouts that the page sets from now on run so many times faster."""
        await self.evaluate(f"clock.pace = {pace}")

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page; promises are awaited."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, (expression, answer["exceptionDetails"])
        return answer["result"].get("value")

    async def wait(self, expression: str, timeout: float = 15.0) -> Any:
        """The expression's value, once it is true."""
        found: list[Any] = []

        async def look() -> bool:
            found[:] = [await self.evaluate(expression)]
            return bool(found[0])

        await wait_until(look, expression, timeout)
        return found[0]

    async def text(self, selector: str = "body") -> str:
        """What is to be read there."""
        return await self.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    async def wait_text(self, selector: str, *parts: str, timeout: float = 15.0) -> str:
        """The text there, once it holds all `parts`."""
        seen = [""]

        async def look() -> bool:
            seen[0] = await self.text(selector)
            return all(part in seen[0] for part in parts)

        try:
            await wait_until(look, f"{parts} in {selector}", timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}; it says: {seen[0]}") from None
        return seen[0]

    async def screenshot(self, path: Path) -> None:
        """What is in the window, as PNG."""
        await self.evaluate("document.fonts.ready.then(() => new Promise(requestAnimationFrame)).then(() => true)")
        shot = await self.call("Page.captureScreenshot")
        await trio.Path(path).write_bytes(base64.b64decode(shot["data"]))

    # What a person does

    async def nodes(self, role: str, name: str) -> list[int]:
        """What assistive technology calls so: all of them, hidden ones left out."""
        document = await self.call("Runtime.evaluate", expression="document")
        told = await self.call(
            "Accessibility.queryAXTree", objectId=document["result"]["objectId"], role=role, accessibleName=name
        )
        return [node["backendDOMNodeId"] for node in told["nodes"] if not node["ignored"]]

    async def find(self, role: str, name: str, number: int = 0) -> int:
        """The one, once it is there."""
        found: list[int] = []

        async def look() -> bool:
            found[:] = await self.nodes(role, name)
            return len(found) > number

        await wait_until(look, f"{role} {name!r}")
        return found[number]

    async def click(self, role: str, name: str, number: int = 0) -> None:
        """With the mouse, in its middle, where nothing may lie over it."""
        node = await self.find(role, name, number)
        await self._click(node, f"{role} {name!r}")

    async def _click(self, node: int, what: str) -> None:
        await self.call("DOM.scrollIntoViewIfNeeded", backendNodeId=node)
        # What the sticky header hides is scrolled out from under it.
        await self._on(node, "function() { this.scrollIntoView({ block: 'center', behavior: 'instant' }) }")
        x, y = await self._place(node)
        hit = "function(x, y) { const at = document.elementFromPoint(x, y); return this.contains(at) || this.disabled }"
        assert await self._on(node, hit, x, y), f"something lies over {what}"
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = "none" if kind == "mouseMoved" else "left"
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=1)

    async def _place(self, node: int) -> tuple[float, float]:
        """The middle of what stands still: what comes in above it may yet push it away."""
        before: list[float] = []
        while True:
            [quad, *_] = (await self.call("DOM.getContentQuads", backendNodeId=node))["quads"]
            if quad == before:
                return sum(quad[0::2]) / 4, sum(quad[1::2]) / 4
            before = quad
            await self.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    async def fill(self, role: str, name: str, text: str) -> None:
        """Click a field and type, instead of what there was."""
        await self.click(role, name)
        await self.call("Input.dispatchKeyEvent", type="keyDown", key="a", modifiers=CTRL, commands=["selectAll"])
        await self.call("Input.dispatchKeyEvent", type="keyUp", key="a", modifiers=CTRL)
        await self.call("Input.insertText", text=text)

    async def focus(self, role: str, name: str, number: int = 0) -> int:
        """As somebody who got there by the keyboard."""
        node = await self.find(role, name, number)
        await self.call("DOM.focus", backendNodeId=node)
        return node

    async def choose(self, name: str, option: str, number: int = 0) -> None:
        """One of a list's choices, by the arrow keys."""
        node = await self.focus("combobox", name, number)
        way = "function(text) { return [...this.options].findIndex((one) => one.text === text) - this.selectedIndex }"
        there = "function(text) { return [...this.options].some((one) => one.text === text) }"
        await wait_until(lambda: self._on(node, there, option), f"{option!r} in {name!r}")
        steps = await self._on(node, way, option)
        for _ in range(abs(steps)):
            await self.press("ArrowDown" if steps > 0 else "ArrowUp")
        assert await self._on(node, "function() { return this.selectedOptions[0].text }") == option

    async def type_moment(self, name: str, date: str, clock: str) -> None:
        """Into a field of date and time, part by part: `MMDDYYYY` and `HHMMSSAM`."""
        await self.focus("DateTime", name)
        for letters in (date, clock):
            for letter in letters:
                await self.call("Input.dispatchKeyEvent", type="keyDown", key=letter, text=letter)
                await self.call("Input.dispatchKeyEvent", type="keyUp", key=letter)
            if letters is date:
                await self.press("ArrowRight")

    async def press(self, key: str, modifiers: int = 0) -> None:
        """One key, pressed and released."""
        code, text = KEYS[key]
        same = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        await self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **same)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **same)

    async def _on(self, node: int, function: str, *arguments: Any) -> Any:
        """Call a function whose `this` is the node."""
        there = await self.call("DOM.resolveNode", backendNodeId=node)
        answer = await self.call(
            "Runtime.callFunctionOn",
            objectId=there["object"]["objectId"],
            functionDeclaration=function,
            arguments=[{"value": value} for value in arguments],
            returnByValue=True,
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")


@asynccontextmanager
async def open_browser(address: str) -> AsyncIterator[Browser]:
    """A `Browser` on what `run_chromium` gave."""
    port, _, path = address.partition("/")
    async with ws.listen(int(port), f"/{path}") as client, trio.open_nursery() as nursery:
        browser = Browser(client)
        nursery.start_soon(browser.hear)
        yield browser
        await browser.close_pages()
        nursery.cancel_scope.cancel()
