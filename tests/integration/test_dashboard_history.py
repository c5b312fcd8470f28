"""The dashboard in a real Chromium: what was, by filters, pages, files, costs and charts."""

import contextlib
import csv
import json
import sqlite3
import time

import pytest
from fakes.browser import Page
from fakes.dashboard import downloaded, opened, recent, rows
from fakes.history import write_history
from fakes.service import Service

pytestmark = pytest.mark.integration

PAGE = 25
"""Rows of a page on a desktop."""


@pytest.fixture(scope="module")
def seeded(shared):
    """The service with a history of three days, in which `kimi`, `groq` and `nvidia` answered."""
    write_history(shared.service.paths.database, recent(300))
    return shared


def ids(service: Service, where: str, *values: object) -> list[str]:
    """Of the records that the SQL condition holds for, the newest first."""
    query = f"SELECT id FROM streams WHERE {where} ORDER BY started DESC, rowid DESC"
    with contextlib.closing(sqlite3.connect(f"file:{service.paths.database}?mode=ro", uri=True)) as database:
        return [id for (id,) in database.execute(query, values)]


async def wait_listed(page: Page, wanted: list[str]) -> list[list[str]]:
    """The history's rows, once they are these, in this order."""
    assert wanted
    names = json.dumps([f"Details of {id}" for id in wanted])
    listed = "JSON.stringify([...document.querySelectorAll('#history-table button')].map((one) => one.ariaLabel))"
    await page.wait(f"{listed} === JSON.stringify({names})")
    return await rows(page, "history-table")


async def test_filters_of_the_history(browser, seeded):
    since = time.time() - 86_400
    async with opened(browser, seeded.port) as page:
        await page.choose("Provider", "kimi", 1)
        await page.choose("Status", "failed")
        await page.click("button", "Apply")
        wanted = ids(seeded.service, "started >= ? AND provider = 'kimi' AND status = 'failed'", since)
        found = await wait_listed(page, wanted[:PAGE])
        assert all("kimi /" in row[1] and row[3].startswith("failed") for row in found)

        await page.fill("combobox", "Model", "kimi-k2")
        await page.press("Enter")
        also = "AND provider = 'kimi' AND status = 'failed' AND model = 'kimi-k2'"
        found = await wait_listed(page, ids(seeded.service, f"started >= ? {also}", since)[:PAGE])
        assert {row[1].splitlines()[0] for row in found} == {"kimi-k2"}

        await page.click("button", "Clear")
        await wait_listed(page, ids(seeded.service, "started >= ?", since)[:PAGE])
        assert await page.evaluate("document.querySelector('#filters [name=model]').value") == ""
        await page.fill("textbox", "Session", 'quo"te, comma')
        await page.click("button", "Apply")
        wanted = ids(seeded.service, "started >= ? AND session = ?", since, 'quo"te, comma')
        await wait_listed(page, wanted[:PAGE])

        await page.click("button", "Clear")
        [id, *_] = ids(seeded.service, "started >= ? AND provider = 'groq'", since)
        [trace] = [one["trace"] for one in seeded.service.records() if one["id"] == id]
        await page.fill("searchbox", "Search", trace.upper())
        await page.click("button", "Apply")
        await page.find("button", f"Details of {id}")
        await page.fill("searchbox", "Search", "no-such-trace")
        await page.press("Enter")
        await page.wait_text("#history", "No streams match.")


async def test_a_time_of_one_s_own(browser, seeded):
    async with opened(browser, seeded.port) as page:
        await page.choose("Time", "from … until …", 1)
        start = (time.time() // 86_400 - 2) * 86_400
        day = time.strftime("%m%d%Y", time.gmtime(start))
        await page.type_moment("From", day, "120000AM")
        await page.type_moment("Until", day, "115959PM")
        await page.click("button", "Apply")
        wanted = ids(seeded.service, "started >= ? AND started < ?", start, start + 86_399)
        found = await wait_listed(page, wanted[:PAGE])
        date = time.strftime("%d %b", time.gmtime(start)).lstrip("0")
        assert all(row[0].startswith(date) for row in found)


async def test_pages_of_the_history(browser, seeded):
    async with opened(browser, seeded.port) as page:
        await page.choose("Time", "all", 1)
        await page.choose("Provider", "nvidia", 1)
        await page.click("button", "Apply")
        wanted = ids(seeded.service, "provider = 'nvidia'")
        pages = [wanted[at : at + PAGE] for at in range(0, len(wanted), PAGE)]
        assert len(pages) > 2
        for number, one in enumerate(pages, 1):
            await wait_listed(page, one)
            assert await page.text("#page-number") == f"Page {number}"
            if number == 1:  # while the newest page is about to be looked at anew
                await page.evaluate("document.querySelector('#older').click(), clock.skip(120)")
            elif number < len(pages):
                await page.click("button", "Older")
        assert await page.evaluate("document.querySelector('#older').disabled")
        for one in reversed(pages[:-1]):
            await page.click("button", "Newer")
            await wait_listed(page, one)
        assert await page.text("#page-number") == "Page 1"
        assert await page.evaluate("document.querySelector('#newer').disabled")


async def test_export_honours_the_filters(browser, seeded, tmp_path):
    async with opened(browser, seeded.port, downloads=tmp_path) as page:
        await page.choose("Time", "last 7 days", 1)
        await page.choose("Status", "cancelled")
        await page.fill("textbox", "Session", "naïve 日本")
        await page.click("button", "Apply")
        wanted = ids(seeded.service, "status = 'cancelled' AND session = ?", "naïve 日本")
        await wait_listed(page, wanted[:PAGE])
        await page.click("button", "Export CSV")
        file = await downloaded(tmp_path, "csv")
        with file.open(newline="", encoding="utf-8") as text:
            told = list(csv.DictReader(text))
        assert [row["id"] for row in told] == wanted
        assert {row["session"] for row in told} == {"naïve 日本"}
        await page.click("button", "Export JSON")
        file = await downloaded(tmp_path, "json")
        assert [one["id"] for one in json.loads(file.read_bytes())] == wanted


async def test_costs_by_day_provider_model_and_session(browser, seeded):
    async with opened(browser, seeded.port) as page:
        await page.click("radio", "Day")
        await page.wait_text("#costs-table", time.strftime("%Y-%m-%d", time.gmtime(time.time() - 86_400)))
        await page.wait_text("#costs-note", "have no price")
        await page.press("ArrowRight")  # as the keyboard goes from one to the next
        await page.wait_text("#costs-table", "kimi", "groq", "nvidia")
        costs = [row[1] for row in await rows(page, "costs-table") if row[1].startswith("$")]
        assert [float(cost[1:]) for cost in costs] == sorted((float(cost[1:]) for cost in costs), reverse=True)
        await page.press("ArrowRight")
        await page.wait_text("#costs-table", "claude-x", "gpt-y")
        await page.click("radio", "Session")
        await page.wait_text("#costs-table", "one", "two", "=cmd")
        before = await page.text("#costs-note")
        await page.choose("Time", "last 24 hours", 2)
        await page.wait(f"document.querySelector('#costs-note').innerText !== {json.dumps(before)}")


async def test_charts_follow_time_and_provider_and_the_arrow_keys(browser, seeded):
    async with opened(browser, seeded.port) as page:
        readout = "document.querySelector('#charts .readout').innerText"
        await page.wait(f"{readout}.includes('p95')")
        latest = await page.evaluate(readout)
        assert latest.startswith("latest · p50")
        assert await page.evaluate("document.querySelectorAll('#charts path.line').length") >= 3
        assert await page.evaluate("document.querySelectorAll('#charts rect.bar').length") > 10
        said = "document.querySelector('#charts .readout').ariaLive"
        assert await page.evaluate(said) is None
        await page.evaluate("document.querySelector('#charts svg').focus()")
        assert await page.evaluate(said) == "polite"
        await page.press("End")
        last = await page.wait(f"!{readout}.startsWith('latest') && {readout}")
        await page.press("ArrowLeft")
        assert await page.evaluate(readout) != last
        await page.press("Home")
        await page.press("Tab")
        await page.wait(f"{readout}.startsWith('latest')")
        errors = "document.querySelectorAll('#charts .readout')[2].innerText"
        before = await page.evaluate(errors)
        await page.choose("Time", "last 7 days")
        await page.wait(f"{errors} !== {json.dumps(before)}")
        before = await page.evaluate(errors)
        await page.choose("Provider", "kimi")
        await page.wait(f"{errors} !== {json.dumps(before)}")
