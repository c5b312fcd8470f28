"""The dashboard in a browser, and streams to be seen there."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio
from fakes.browser import Browser, Page
from fakes.history import NOW, many_records
from fakes.load import Client, chat
from fakes.service import Service, wait_until
from msgspec import structs

from shared.records import StreamRecord

LOADED = r"""(() => {
    const shown = (selector) => document.querySelector(selector)?.innerText;
    return shown('#page-number') && /\d/.test(shown('.provider .facts div:nth-child(2) dd'))
        && document.querySelector('#costs-note').dataset.by && shown('#workers-table tbody tr')
        && [...document.querySelectorAll('#charts .tick')].length > 10;
})()"""
"""All sections have had their first answers."""
MODELS = """
[models.tight]
provider = "fake"
model = "slow-2+text-2000"
max_context_size = 1000
[models.tight.price]
input = 1.0
output = 4.0
[models.roomy]
provider = "fake"
model = "slow-40+text-2000"
max_context_size = 100_000
"""
"""Of the configuration: what shows a gauge."""
WIDTHS = {"desktop": (1280, 900), "phone": (360, 780)}


async def stream(port: int, model: str, text: str = "hi", **headers: str) -> bytes:
    """One stream; all that came of it."""
    async with Client(port) as client:
        response = await client.post(chat(model, text), headers=headers)
        return await response.read()


@asynccontextmanager
async def streams(port: int, *asked: tuple[str, str, str]) -> AsyncIterator[None]:
    """Live streams, each of a model, a text and a session; their clients leave at the end."""
    async with trio.open_nursery() as nursery:
        for model, text, session in asked:
            nursery.start_soon(partial(stream, port, model, text, **{"x-session-id": session}))
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def opened(browser: Browser, port: int, **how) -> AsyncIterator[Page]:
    """The dashboard, live, with something in all of its sections; nothing may go wrong in it."""
    page = await browser.page(f"http://127.0.0.1:{port}/", **how)
    await page.wait_text("#connection", "Live")
    await page.wait(LOADED)
    yield page
    assert page.problems == []


async def ended(page: Page, service: Service, session: str) -> dict[str, Any]:
    """The record of the session's only stream; the page is about to look for it."""

    def found() -> list[dict[str, Any]]:
        return [record for record in service.records() if record["session"] == session]

    [record] = await wait_until(found, f"the record of {session}")
    await page.wait(f"!document.querySelector('#live-table').innerText.includes({json.dumps(session)})")
    await page.skip(4)
    return record


async def rows(page: Page, table: str) -> list[list[str]]:
    """The texts of a table's cells."""
    cells = "[...row.cells].map((cell) => cell.innerText)"
    return await page.evaluate(f"[...document.querySelectorAll('#{table} tbody tr')].map((row) => {cells})")


def recent(count: int, days: float = 3.0) -> list[StreamRecord]:
    """Records of the last days, up to now."""
    moved = time.time() - NOW - 1
    return [
        structs.replace(record, start=structs.replace(record.start, started=record.start.started + moved))
        for record in many_records(count, days=days)
    ]


async def downloaded(folder: Path, suffix: str) -> Path:
    """The file of an export, once it is whole."""
    return await wait_until(lambda: next(folder.glob(f"kimi-proxy-*.{suffix}"), None), f"a file *.{suffix}")
