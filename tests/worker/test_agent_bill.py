"""The sums of a run's turns."""

import pytest
from fakes.upstream import openai_chunk

from shared.config import Price, Provider, Streaming
from shared.records import Tokens
from shared.tokenizer import load_encoding
from worker.agent.bill import Bill, Item
from worker.agent.turn import Turn
from worker.dialects.neutral import Message, Request, Text, Usage
from worker.streaming.accounting import Counter

ONE = Provider(name="one", base_url="http://one")


@pytest.fixture
def bill():
    return Bill(Counter(load_encoding()))


def item(said="", usage=None, status="completed", price=None, *, sent=True, billed=True):
    """A turn that has said something, and whose provider has counted (prompt, completion) or nothing."""
    turn = Turn(Request(messages=(Message("user", (Text("say it"),)),)), Streaming(), id="x")
    relay = turn.relay(ONE)
    relay.receive(openai_chunk({"content": said}).encode())
    if usage is not None:
        prompt, completion = usage
        cached = {"prompt_tokens_details": {"cached_tokens": 1}}
        counts = {"prompt_tokens": prompt, "completion_tokens": completion, **cached}
        relay.receive(openai_chunk({}, "stop", usage=counts).encode())
    return Item(inquiry=turn, relay=relay, status=status, sent=sent, price=price, billed=billed)


async def test_nothing_costs_nothing(bill):
    await bill.settle()
    total = bill.total
    assert (total.prompt, total.completion, total.cost, bill.usage) == (None, None, None, Usage())


async def test_sums(bill):
    price = Price(input=1_000_000.0, output=2_000_000.0)
    bill.add(item("one two three", (10, 3), price=price))
    bill.add(item("four", (20, 1), price=price))
    await bill.settle()
    total = bill.total
    assert (total.prompt, total.completion) == (Tokens(30, "provider"), Tokens(4, "provider"))
    assert (total.counted_completion, total.cache_read, total.cache_write) == (4, 2, None)
    assert total.cost == 30 + 2 * 4
    assert bill.usage == Usage(prompt_tokens=30, completion_tokens=4, cache_read_tokens=2)
    assert bill.last_usage == Usage(prompt_tokens=20, completion_tokens=4, cache_read_tokens=1)


@pytest.mark.parametrize(
    ("items", "source"),
    [
        ([item("one", (9, 1)), item("one two")], "counted"),
        ([item("one two"), item("one", status="cancelled"), item("one", (9, 1))], "partial"),
    ],
)
async def test_the_least_certain_count_tells_how_certain_the_sum_is(bill, items, source):
    for each in items:
        bill.add(each)
    await bill.settle()
    assert bill.total.completion.source == source
    assert bill.total.counted_completion is None


async def test_what_was_never_asked_costs_nothing(bill):
    price = Price(input=1.0, output=1.0)
    bill.add(item("", price=price, status="failed", sent=False, billed=False))
    await bill.settle()
    assert (bill.total.prompt, bill.total.completion, bill.total.cost) == (None, None, 0.0)
