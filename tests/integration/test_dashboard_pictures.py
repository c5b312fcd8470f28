"""Pictures of the dashboard, as `docs/dashboard.md` shows them: of a service as a small team has it.

With KIMI_PROXY_WRITE_DOCS=1 they are taken anew.
"""

import math
import os
import random
import time
from collections.abc import Iterator
from functools import partial

import pytest
import trio
from fakes.dashboard import WIDTHS, opened, stream, streams
from fakes.history import write_history
from fakes.service import REPOSITORY, config_text, run_service
from fakes.streams import make_record, make_start

from shared.records import StreamRecord, Tokens

pytestmark = pytest.mark.integration

PICTURES = REPOSITORY / "docs/screenshots"
HEIGHTS = {"trends": 700, "history": 700, "providers": 520, "costs": 330}
"""So that a picture shows its section only; on a desktop."""
PICTURED = {
    "claude-sonnet": ("moonshot", "kimi-k2.6", 131_072, 0.6, 2.5),
    "gpt-oss-120b": ("groq", "openai/gpt-oss-120b", 131_072, 0.15, 0.75),
    "mistral-large": ("mistral", "mistral-large-latest", 65_536, 2.0, 6.0),
}


def day_of(rnd: random.Random, count: int) -> Iterator[StreamRecord]:
    """Records of a day as a small team has it: busy by day, with a provider that failed for half an hour."""
    now = time.time()
    for number in range(count):
        ago = 86_400 * rnd.random() ** 1.3
        busy = 0.35 + 0.65 * math.sin(math.pi * ((now - ago) % 86_400) / 86_400) ** 2
        if rnd.random() > busy:
            continue
        model, (provider, upstream_model, size, price_in, price_out) = rnd.choice(list(PICTURED.items()))
        trouble = provider == "groq" and 14_000 < ago < 17_000
        status = "failed" if rnd.random() < (0.6 if trouble else 0.015) else "completed"
        status = "cancelled" if status == "completed" and rnd.random() < 0.06 else status
        first_byte = rnd.lognormvariate({"groq": -1.2, "moonshot": -0.3, "mistral": -0.6}[provider], 0.35)
        answer = int(rnd.lognormvariate(6.1, 0.7))
        prompt = int(rnd.lognormvariate(9.2, 0.7))
        speed = {"groq": 240, "moonshot": 62, "mistral": 88}[provider] * rnd.uniform(0.8, 1.2)
        failed = status == "failed"
        start = make_start(
            f"{number:032x}",
            trace=f"req_{rnd.getrandbits(64):016x}",
            session=rnd.choice(["alice", "bob", "ci-review", "docs-bot", None]),
            provider=provider,
            model=model,
            dialect="anthropic" if model.startswith("claude") else "openai",
            worker=rnd.choice([1, 2]),
            started=now - ago,
            context_size=size,
        )
        yield make_record(
            start=start,
            provider=provider,
            upstream_model=upstream_model,
            status=status,
            first_byte=None if failed else first_byte,
            duration=first_byte + (0 if failed else answer / speed),
            prompt=Tokens(prompt, "counted" if failed else "provider"),
            completion=Tokens(0 if failed else answer, "provider"),
            cost=0.0 if failed else (prompt * price_in + answer * price_out) / 1e6,
            error_type={"failed": rnd.choice(["ReadError", "HTTPStatusError"]), "cancelled": "client_disconnect"}.get(
                status
            ),
            http_status=502 if failed else 200,
        )


async def test_pictures(browser, tmp_path, port, upstream):
    """A service as a small team has it; what is seen of it goes into the documentation, if that is wanted."""
    wanted = os.environ.get("KIMI_PROXY_WRITE_DOCS") == "1"
    folder = PICTURES if wanted else tmp_path
    more = []
    for provider in ("moonshot", "groq", "mistral"):
        more += [f"[providers.{provider}]", f'base_url = "{upstream.base_url}"', "max_retries = 0"]
    for model, (provider, _, size, price_in, price_out) in PICTURED.items():
        more += [f'[models."{model}"]', f'provider = "{provider}"', f"max_context_size = {size}"]
        more += ['model = "slow-30+text-4000"', f'[models."{model}".price]']
        more += [f"input = {price_in}", f"output = {price_out}"]
    more += ['[models."kimi-fast"]', 'provider = "moonshot"', 'model = "slow-800+text-180"']
    more += ['[models."kimi-fast".price]', "input = 0.6", "output = 2.5"]
    more += ['[models."mistral-small"]', 'provider = "mistral"', 'model = "status-503"']
    async with run_service(tmp_path, config_text(port, more="\n".join(more))) as service:
        write_history(service.paths.database, day_of(random.Random(4), 2400))
        for _ in range(7):
            await stream(port, "mistral-small", **{"x-session-id": "docs-bot"})
        async with trio.open_nursery() as nursery:
            for number in range(24):
                session = ("alice", "bob", "ci-review")[number % 3]
                headers = {"x-claude-code-session-id": session}  # which groups only: they run side by side
                nursery.start_soon(partial(stream, port, "kimi-fast", f"{number}", **headers))
        asked = [
            ("claude-sonnet", "word " * 34_000, "alice"),
            ("gpt-oss-120b", "word " * 9_000, "ci-review"),
            ("claude-sonnet", "word " * 92_000, "bob"),
            ("mistral-large", "word " * 37_000, "docs-bot"),
        ]
        async with streams(port, *asked), opened(browser, port) as page:
            await page.wait_text("#live-table", "alice", "bob", "ci-review", "docs-bot")
            await page.wait_text("#providers", "Degraded", "moonshot")
            await page.wait("document.querySelectorAll('#charts rect.bar').length > 40")
            seconds = 8 if wanted else 1
            await page.wait(f"document.querySelectorAll('#live-chart circle').length > {seconds}")
            for device, (width, height) in WIDTHS.items():
                await page.resize(width, height)
                for dark in (False, True):
                    await page.set_dark(dark)
                    await page.screenshot(folder / f"{device}-{'dark' if dark else 'light'}.png")
            await page.set_dark(False)
            for section, height in HEIGHTS.items():
                await page.resize(1280, height)
                if section == "history":
                    await page.choose("Provider", "groq", 1)
                    await page.click("button", "Apply")
                    await page.wait("!document.querySelector('#history-table').innerText.includes('kimi')")
                await page.click("link", section.title())
                await page.screenshot(folder / f"{section}.png")
        assert len(list(folder.glob("*.png"))) >= 8
