import pytest

from shared.tokenizer import load_encoding
from worker.dialects.tokens import CHARS_PER_TOKEN, MAX_PIECE_CHARS, TokenMeter, count_tokens

ENCODING = load_encoding()


class Recorder:
    """An encoding that only notes the pieces it is given."""

    def __init__(self):
        self.pieces = []

    def encode_ordinary(self, text):
        self.pieces.append(text)
        return [0]


@pytest.mark.parametrize(
    ("texts", "tokens"),
    [([], 0), ([""], 0), (["hello"], 1), (["hel", "lo"], 1), (["<|endoftext|>"], 7), (["\ud800"], 1)],
)
def test_small_texts(texts, tokens):
    assert count_tokens(ENCODING, texts) == tokens


def test_cutting_costs_nothing_in_real_text():
    text = "The quick brown fox jumps over the lazy dog. " * 2000
    assert count_tokens(ENCODING, [text]) == len(ENCODING.encode_ordinary(text))


@pytest.mark.parametrize(
    "unit", ["x", " ", "\n", "\t ", "😀", "👨‍👩‍👧", "1", "!", "中", "\ud800", "a b", "x" * 5000 + " ", " " * 5000 + "x"]
)
def test_pieces_are_bounded_and_lose_nothing(unit):
    """What makes counting linear: no piece is longer than the bound, and only spaces move a border."""
    text = unit * (2 * 1024 * 1024 // len(unit))
    recorder = Recorder()
    count_tokens(recorder, [text])
    assert "".join(recorder.pieces) == text
    assert max(map(len, recorder.pieces)) <= MAX_PIECE_CHARS
    assert len(recorder.pieces) <= 2 * len(text) // MAX_PIECE_CHARS + 2


@pytest.mark.parametrize("unit", ["x", " ", "😀", "\ud800"])
def test_hostile_text_is_counted(unit):
    text = unit * (2 * 1024 * 1024)
    assert 0 < count_tokens(ENCODING, [text]) <= 4 * len(text)


def test_the_meter():
    meter = TokenMeter()
    assert meter.estimate == 0
    meter.add("a")
    assert meter.estimate == 1
    meter.add("b" * CHARS_PER_TOKEN)
    assert (meter.chars, meter.estimate) == (CHARS_PER_TOKEN + 1, 2)
    assert meter.take() == ["a", "b" * CHARS_PER_TOKEN]
    meter.counted += 9
    assert (meter.chars, meter.estimate, meter.take()) == (0, 9, [])
