"""The dashboard in a real Chromium: how it looks on a desktop and a phone, light and dark, and without a mouse."""

import pytest
from fakes.browser import SHIFT
from fakes.dashboard import MODELS, WIDTHS, opened, recent, streams
from fakes.history import write_history
from fakes.looks import WRONG

pytestmark = pytest.mark.integration

CONFIG = MODELS


async def test_everything_fits_and_can_be_read(browser, shared):
    asked = [("tight", "x" * size, f"fits-{size}") for size in (1000, 2600, 3600)]
    asked.append(("fake/slow-20+text-2000+" + "a-very-long-name" * 10, "hi", "s" * 120))
    write_history(shared.service.paths.database, recent(60))
    async with opened(browser, shared.port) as page, streams(shared.port, *asked):
        await page.wait_text("#live-table", "s" * 120, "fits-3600")
        await page.wait_text("#history-table", "Details")
        await page.wait_text("#service", "Worker 2")
        for device, (width, height) in WIDTHS.items():
            await page.resize(width, height)
            for dark in (False, True):
                await page.set_dark(dark)
                for name, wrong in WRONG.items():
                    assert await page.evaluate(wrong) == [], (device, dark, name)
        for width in (320, 360, 700, 820, 1024, 1280, 1920):
            await page.resize(width, 800)
            assert await page.evaluate("document.documentElement.scrollWidth") == width
        # Nor does a chart stand out while it has the width of the window as it was.
        await page.evaluate("document.querySelectorAll('.chart svg').forEach((svg) => svg.setAttribute('width', 3000))")
        assert await page.evaluate("document.documentElement.scrollWidth") == width
        # However long a name is, it takes two lines.
        heights = "[...document.querySelectorAll('#live-table tbody tr')].map((row) => row.offsetHeight)"
        assert max(await page.evaluate(heights)) < 90


async def test_the_theme_is_kept(browser, shared):
    async with opened(browser, shared.port) as page:
        background = "getComputedStyle(document.body).backgroundColor"
        light = await page.evaluate(background)
        await page.click("button", "Theme: auto")
        assert await page.evaluate(background) == light
        await page.click("button", "Theme: light")
        await page.find("button", "Theme: dark")
        dark = await page.evaluate(background)
        assert dark != light
        await page.reload()
        await page.find("button", "Theme: dark")
        assert await page.evaluate(background) == dark
        await page.click("button", "Theme: dark")
        assert await page.evaluate(background) == light
        await page.set_dark(True)
        assert await page.evaluate(background) == dark


async def test_the_keyboard_reaches_everything(browser, shared):
    async with opened(browser, shared.port) as page, streams(shared.port, ("roomy", "hi", "keys")):
        await page.wait_text("#live-table", "keys")
        await page.wait_text("#providers", "Healthy")
        await page.press("Tab")
        assert await page.evaluate("document.activeElement.innerText") == "Skip to the live streams"
        here = "document.activeElement === document.body ? null : (document.activeElement.dataset.seen = 'yes')"
        ring = "getComputedStyle(document.activeElement).outlineStyle"
        for _ in range(200):
            if not await page.evaluate(here):
                break
            await page.press("Tab")
            if await page.evaluate("document.activeElement.matches('button, select, a, svg, input:not([type=radio])')"):
                assert await page.evaluate(ring) != "none", await page.evaluate("document.activeElement.outerHTML")
        missed = await page.evaluate(
            "[...document.querySelectorAll('a[href], button:enabled, select, input:not([type=radio]), svg[tabindex]')]"
            ".filter((one) => one.checkVisibility() && !one.dataset.seen && !one.ariaLabel?.startsWith('Details'))"
            ".map((one) => one.outerHTML.slice(0, 90))"
        )
        assert missed == []

        # Without a mouse: a cancel, by Space and Enter.
        await page.evaluate("document.querySelector('#live-table button').focus()")
        await page.press(" ")
        await page.find("button", "Really cancel? roomy, session keys")
        await page.press("Enter")
        await page.wait_text("#live", "No streams at the moment.")
        # Back to where one came from.
        await page.evaluate("document.querySelector('#export-csv').focus()")
        await page.press("Tab", SHIFT)
        assert await page.evaluate("document.querySelector('#trends').contains(document.activeElement)")


async def test_the_sections_are_linked(browser, shared):
    async with opened(browser, shared.port, height=700) as page:
        asked = "performance.getEntriesByType('resource').map((one) => one.name).filter((one) => one.includes('/api/'))"
        addresses = await page.evaluate(asked)
        assert len(set(addresses)) == len(addresses) == 6  # each once
        for name in ("Service", "Costs", "History", "Trends", "Providers", "Live"):
            await page.click("link", name)
            await page.wait(f"Math.abs(document.querySelector('#{name.lower()}').getBoundingClientRect().top) < 700")
            assert await page.evaluate("location.hash") == f"#{name.lower()}"


async def test_numbers_as_people_read_them(browser, shared):
    page = await browser.page(f"http://127.0.0.1:{shared.port}/")
    for module, call, said in [
        ("format", "count(null)", "–"),
        ("format", "count(9999)", "9,999"),
        ("format", "count(9876543210)", "9.88B"),
        ("format", "exact(1234567)", "1,234,567"),
        ("format", "rate(0)", "0"),
        ("format", "rate(3.25)", "3.3"),
        ("format", "duration(0.0004)", "<1 ms"),
        ("format", "duration(0.4216)", "422 ms"),
        ("format", "duration(9.94)", "9.9 s"),
        ("format", "duration(185)", "3 min 5 s"),
        ("format", "span(90061)", "1 d 1 h"),
        ("format", "money(0)", "$0"),
        ("format", "money(0.0000001)", "<$0.000001"),
        ("format", "money(0.00123)", "$0.0012"),
        ("format", "money(1234567.8)", "$1,234,568"),
        ("format", "bytes(123456789)", "118 MiB"),
        ("format", "percent(0.0000001)", "<0.1 %"),
        ("format", "percent(1.02)", "102 %"),
        ("charts", "scale(0, true)", {"top": 1, "step": 1}),
        ("charts", "scale(9, true)", {"top": 10, "step": 5}),  # what is counted has no halves
        ("charts", "scale(9)", {"top": 10, "step": 2.5}),
        ("charts", "scale(1600000, true)", {"top": 2_000_000, "step": 500_000}),
    ]:
        assert await page.evaluate(f"import('/static/{module}.js').then((it) => it.{call})") == said, call
    assert page.problems == []
