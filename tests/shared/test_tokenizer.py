"""The shipped encoding: found without a network, whatever the environment says about caches."""

import os

import pytest
import tiktoken
from tiktoken import registry

from shared import tokenizer
from shared.errors import StartError


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing loaded before, and no way to a network."""
    tokenizer.load_encoding.cache_clear()
    monkeypatch.setattr(registry, "ENCODINGS", {})

    def no_network(path):
        raise AssertionError(f"{path} was asked for")

    monkeypatch.setattr("tiktoken.load.read_file", no_network)
    yield
    tokenizer.load_encoding.cache_clear()


def test_the_encoding_comes_from_the_package(monkeypatch):
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    encoding = tokenizer.load_encoding()
    assert isinstance(encoding, tiktoken.Encoding)
    assert encoding.decode(encoding.encode_ordinary("Grüße, 世界")) == "Grüße, 世界"
    assert tokenizer.load_encoding() is encoding
    assert "TIKTOKEN_CACHE_DIR" not in os.environ


def test_the_users_own_cache_setting_survives(monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "/elsewhere")
    tokenizer.load_encoding()
    assert os.environ["TIKTOKEN_CACHE_DIR"] == "/elsewhere"


def test_a_missing_or_damaged_file_is_an_error_and_stays(monkeypatch, tmp_path):
    monkeypatch.setattr(tokenizer, "DATA", tmp_path / tokenizer.DATA.name)
    with pytest.raises(StartError, match="can't be read"):
        tokenizer.load_encoding()
    tokenizer.DATA.write_bytes(b"damaged")
    with pytest.raises(StartError, match="is damaged; install again"):
        tokenizer.load_encoding()
    assert tokenizer.DATA.read_bytes() == b"damaged"
