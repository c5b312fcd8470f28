"""What most tests here start from: an upstream, and the service with two workers in front of it."""

import queue
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
import trio
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


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[tuple[Service, OpenAIUpstream, int]]:
    """Service, upstream and port for all tests of a module, which leave it as they found it.

    Both live in a trio of their own, in a thread: a test only looks at them.
    """
    ready: queue.Queue[tuple[Service, OpenAIUpstream, int]] = queue.Queue()
    failures: list[BaseException] = []
    ended: list[tuple[trio.lowlevel.TrioToken, trio.Event]] = []

    async def live() -> None:
        port, end = free_port(), trio.Event()
        ended.append((trio.lowlevel.current_trio_token(), end))
        async with serve_openai() as upstream:
            config = config_text(port, upstream.base_url, provider={"backoff_base": 0.0})
            async with run_service(tmp_path_factory.mktemp("shared"), config) as service:
                ready.put((service, upstream, port))
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
