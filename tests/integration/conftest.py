"""What most tests here start from: an upstream, and the service with two workers in front of it."""

import queue
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
import trio
from fakes.anthropic_upstream import AnthropicUpstream, serve_anthropic
from fakes.browser import PROGRAM, Browser, open_browser, run_chromium
from fakes.openai_upstream import OpenAIUpstream, serve_openai
from fakes.service import Service, config_text, free_port, run_service


@pytest.fixture
async def upstream() -> AsyncIterator[OpenAIUpstream]:
    """An OpenAI-compatible upstream, in the test's own trio."""
    async with serve_openai() as upstream:
        yield upstream


@pytest.fixture
def port() -> int:
    """Where the service listens."""
    return free_port()


@pytest.fixture
async def service(tmp_path, port, upstream) -> AsyncIterator[Service]:
    """The service with two workers, the provider `fake`, and retries that don't wait."""
    config = config_text(port, upstream.base_url, provider={"backoff_base": 0.0})
    async with run_service(tmp_path, config) as service:
        yield service


@dataclass(frozen=True)
class Shared:
    """A service with the providers `fake`, which speaks OpenAI's dialect, and `claude`, which speaks Anthropic's."""

    service: Service
    port: int
    openai: OpenAIUpstream
    anthropic: AnthropicUpstream

    def upstream(self, provider: str) -> OpenAIUpstream | AnthropicUpstream:
        return {"fake": self.openai, "claude": self.anthropic}[provider]


@pytest.fixture(scope="module")
def shared(tmp_path_factory, request) -> Iterator[Shared]:
    """Service and upstreams for all tests of a module, which leave them as they found them.

    They live in a trio of their own, in a thread: a test only looks at them.  A module may add to the configuration by
    its `CONFIG`, where `ANTHROPIC_URL` stands for the base_url of the upstream that speaks Anthropic's dialect.
    """
    ready: queue.Queue[Shared] = queue.Queue()
    failures: list[BaseException] = []
    ended: list[tuple[trio.lowlevel.TrioToken, trio.Event]] = []

    async def live() -> None:
        port, end = free_port(), trio.Event()
        ended.append((trio.lowlevel.current_trio_token(), end))
        async with serve_openai() as openai, serve_anthropic() as anthropic:
            config = config_text(
                port,
                openai.base_url,
                anthropic=anthropic.base_url,
                provider={"backoff_base": 0.0},
                more=getattr(request.module, "CONFIG", "").replace("ANTHROPIC_URL", anthropic.base_url),
            )
            async with run_service(tmp_path_factory.mktemp("shared"), config) as service:
                ready.put(Shared(service, port, openai, anthropic))
                await end.wait()

    def run() -> None:
        try:
            trio.run(live)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield ready.get(timeout=60)
    finally:
        [(token, end)] = ended
        token.run_sync_soon(end.set)
        thread.join()
    if failures:
        raise failures[0]


@pytest.fixture(scope="session")
def chromium(tmp_path_factory) -> Iterator[str]:
    """Where a headless Chromium is spoken to."""
    if PROGRAM is None:
        pytest.skip("Chromium is not installed (Debian: apt install chromium)")
    with run_chromium(tmp_path_factory.mktemp("chromium")) as address:
        yield address


@pytest.fixture
async def browser(chromium) -> AsyncIterator[Browser]:
    """That Chromium, with no page open."""
    async with open_browser(chromium) as browser:
        yield browser
