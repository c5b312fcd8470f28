"""What most tests here start from: an upstream, and the service with two workers in front of it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakes.anthropic_upstream import AnthropicUpstream, serve_anthropic
from fakes.apart import live_apart
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


@asynccontextmanager
async def run_shared(folder: Path, more: str) -> AsyncIterator[Shared]:
    """In `more` of the configuration `ANTHROPIC_URL` stands for the base_url of the upstream of Anthropic's dialect."""
    port = free_port()
    async with serve_openai() as openai, serve_anthropic() as anthropic:
        config = config_text(
            port,
            openai.base_url,
            anthropic=anthropic.base_url,
            provider={"backoff_base": 0.0},
            more=more.replace("ANTHROPIC_URL", anthropic.base_url),
        )
        async with run_service(folder, config) as service:
            yield Shared(service, port, openai, anthropic)


@pytest.fixture(scope="module")
def shared(tmp_path_factory, request) -> Iterator[Shared]:
    """Service and upstreams for all tests of a module, which leave them as they found them.

    A module may add to the configuration by its `CONFIG`, see `run_shared`.
    """
    with live_apart(run_shared(tmp_path_factory.mktemp("shared"), getattr(request.module, "CONFIG", ""))) as shared:
        yield shared


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
