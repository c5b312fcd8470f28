"""Checkpoints are where the tokens of the whole text are, however small the pieces it comes in."""

import pytest

from shared.tokenizer import load_encoding
from worker.agent.tally import Tally

ENCODING = load_encoding()
PROSE = "The naïve quick brown fox (aged 3½) jumps over 日本 🎉 and more, doesn't it? " * 60
CODE = "def f(x):\n    if x_is_what_was_meant:\n        return {'a': x['b'] + 1}\n\n" * 60
TEXTS = {
    "prose": PROSE,
    "code": CODE,
    "no spaces": "日本語のテキストです。" * 200,
    "long words": "Antidisestablish" * 300,
}


def count(text):
    return len(ENCODING.encode_ordinary(text))


@pytest.mark.parametrize("size", [1, 3, 7, 1000, 100_000])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_small_pieces_count_as_the_text_does(text, size):
    tally = Tally(count, 50)
    steps, behind = [], []
    for end in range(size, len(text) + size, size):
        for step in tally.add(text[end - size : end]):
            steps.append(step)
            behind.append(count(text[:end]) / 50 / step)
    assert steps == list(range(1, len(steps) + 1))
    assert abs(len(steps) - count(text) / 50) < 1 + 0.02 * len(steps)
    assert all(ratio > 0.95 for ratio in behind)
    if size < 10:
        assert all(ratio < 1.1 for ratio in behind)


def test_it_counts_only_where_a_step_may_have_been_reached():
    counted = []
    tally = Tally(lambda text: counted.append(len(text)) or count(text), 50)
    for at in range(0, len(PROSE), 3):
        tally.add(PROSE[at : at + 3])
    assert sum(counted) < 20 * len(PROSE)
    assert max(counted) < 1000
