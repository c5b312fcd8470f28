"""A provider that fails is asked last by every worker, or not at all, and comes back by itself."""

import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from fakes.load import Client, chat, said
from fakes.openai_upstream import OpenAIUpstream, serve_openai, text_of
from fakes.service import Service, config_text, run_service, wait_until

pytestmark = pytest.mark.integration

NAMES = ("provider", "http_status", "error_type", "retries")
FAILURES = 6
"""One more than `max_errors`."""
_numbers = itertools.count()


def configuration(port: int, upstream: OpenAIUpstream, spare: OpenAIUpstream, health: str) -> str:
    """`m` is asked of `fake`, which fails at first, then of `spare`; `alone` of `fake` only."""
    more = f"""
[providers.spare]
base_url = "{spare.base_url}"
[models.m]
provider = "fake"
model = "flaky-{FAILURES}+text-3"
fallbacks = ["spare/text-2"]
[models.alone]
provider = "fake"
model = "flaky-{FAILURES + 1}+text-3"
[health]
{health}
"""
    return config_text(port, upstream.base_url, provider={"max_retries": 0}, more=more)


@pytest.fixture
async def spare() -> AsyncIterator[OpenAIUpstream]:
    async with serve_openai() as upstream:
        yield upstream


async def ask(port: int, model: str, mark: str, trace: str | None = None) -> tuple[int, dict[str, str], bytes]:
    async with Client(port) as client:
        response = await client.post(chat(model, mark), headers={"x-request-id": trace} if trace else None)
        return response.status, response.headers, await response.read()


async def ask_every_worker(service: Service, port: int, model: str, mark: str) -> set[tuple[Any, ...]]:
    """Provider, status, error type and retries of answers that both workers took part in."""

    async def both() -> set[tuple[Any, ...]]:
        traces = [f"every-{next(_numbers)}" for _ in range(4)]
        async with trio.open_nursery() as nursery:
            for trace in traces:
                nursery.start_soon(ask, port, model, mark, trace)
        records = [await service.record(trace) for trace in traces]
        seen.update(record["worker"] for record in records)
        ended.update(tuple(record[name] for name in NAMES) for record in records)
        return ended if seen == {1, 2} else set()

    seen: set[int] = set()
    ended: set[tuple[Any, ...]] = set()
    return await wait_until(both, "answers of both workers")


async def wait_every_worker(service: Service, port: int, model: str, mark: str, wanted: tuple[Any, ...]) -> None:
    """Until every worker has heard the news, and does as it says."""

    async def all_do() -> bool:
        return await ask_every_worker(service, port, model, mark) == {wanted}

    await wait_until(all_do, f"{wanted} of both workers")


async def first_answer_but_503(port: int, model: str, mark: str) -> tuple[int, dict[str, str], bytes]:
    """Ask until the circuit lets a request through; its answer."""

    async def let_through() -> tuple[int, dict[str, str], bytes] | None:
        answer = await ask(port, model, mark)
        return None if answer[0] == 503 else answer

    answer = await wait_until(let_through, "a trial")
    assert answer is not None
    return answer


async def health(service: Service) -> dict[str, str]:
    return {provider.name: provider.health for provider in (await service.status()).providers}


async def wait_health(service: Service, state: str) -> None:
    """Until the supervisor says so; the workers hear of it a moment later."""

    async def reached() -> bool:
        return (await health(service))["fake"] == state

    await wait_until(reached, state)


async def test_a_failing_provider_is_asked_last_by_all_workers_and_recovers(tmp_path, port, upstream, spare):
    async with run_service(tmp_path, configuration(port, upstream, spare, "window = 3600")) as service:
        for number in range(1, FAILURES + 1):
            status, _, body = await ask(port, "m", "flaky")
            assert (status, said(body)) == (200, "".join(text_of(2)))
            assert len(upstream.rows("flaky")) == number
        await wait_health(service, "degraded")
        assert (await health(service))["spare"] == "healthy"
        [line] = await wait_until(lambda: service.events("provider_degraded"), "the line in the log")
        assert (line["provider"], line["errors"], line["types"]) == ("fake", "6", "HTTP_500:6")

        await wait_every_worker(service, port, "m", "flaky", ("spare", 200, None, 0))
        asked = len(upstream.rows("flaky"))
        await wait_every_worker(service, port, "m", "flaky", ("spare", 200, None, 0))
        assert len(upstream.rows("flaky")) == asked
        # Nobody else has that model: it is still asked.
        assert (await ask(port, "fake/text-3", "direct"))[0] == 200

        service.write_config(configuration(port, upstream, spare, "window = 1"))
        await service.reload()
        await wait_health(service, "healthy")
        await wait_until(lambda: service.events("provider_recovered"), "the line in the log")
        await wait_every_worker(service, port, "m", "flaky", ("fake", 200, None, 0))
        assert len(service.events("provider_degraded")) == len(service.events("provider_recovered")) == 1


async def test_an_open_circuit_spares_the_provider_until_it_is_tried(tmp_path, port, upstream, spare):
    rules = "circuit_breaker = true\nopen_time = 3600"
    async with run_service(tmp_path, configuration(port, upstream, spare, rules)) as service:
        for _ in range(FAILURES):
            assert (await ask(port, "alone", "broken"))[0] == 500
        await wait_health(service, "open")

        await wait_every_worker(service, port, "alone", "refused", ("fake", 503, "CircuitOpen", 0))
        asked = len(upstream.log)
        status, headers, body = await ask(port, "alone", "broken")
        assert status == 503
        assert 3500 < int(headers["retry-after"]) <= 3600
        assert json.loads(body)["error"]["type"] == "service_unavailable_error"
        # Where there is another, clients notice nothing.
        status, _, body = await ask(port, "m", "other")
        assert status == 200
        assert len(upstream.log) == asked

        # The first trial fails, the second one is well.
        service.write_config(configuration(port, upstream, spare, "circuit_breaker = true\nopen_time = 1"))
        await service.reload()
        assert (await first_answer_but_503(port, "alone", "broken"))[0] == 500
        await wait_health(service, "open")
        status, _, body = await first_answer_but_503(port, "alone", "broken")
        assert (status, said(body)) == (200, "".join(text_of(3)))
        await wait_health(service, "healthy")
        await wait_every_worker(service, port, "alone", "broken", ("fake", 200, None, 0))
        assert len(service.events("provider_degraded")) == len(service.events("provider_recovered")) == 1
