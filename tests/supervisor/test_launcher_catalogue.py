"""What `setup` shows of the providers."""

from shared.config.presets import PRESETS
from supervisor.cli.launcher.catalogue import OFFERS, describe, listed


def test_every_preset_is_offered():
    assert set(PRESETS) <= set(OFFERS)
    for name, preset in PRESETS.items():
        assert OFFERS[name].model == preset.default_model
        assert (OFFERS[name].base_url, OFFERS[name].dialect) == (None, None)
    for name in set(OFFERS) - set(PRESETS):
        assert OFFERS[name].base_url is not None
    assert all(offer.keys_at is not None for name, offer in OFFERS.items() if name != "echo")
    assert listed()[0] == "kimi"


def test_the_table():
    heading, lines = describe(["kimi", "openrouter", "anthropic", "gemini", "echo"])
    start = heading.index("TOKENS/S")
    assert lines[0][start:].split() == ["about", "40", "256k", "0.95", "/", "4.00"]
    assert [line.split()[0] for line in lines] == ["kimi", "openrouter", "anthropic", "gemini", "echo"]
    assert lines[1].split()[2:] == ["?", "?", "?"]
    assert "  200k  " in lines[2]
    assert "  1M  " in lines[3]
    assert lines[4].endswith("built in")


def test_it_fits_into_a_terminal():
    heading, lines = describe(listed())
    assert max(map(len, [heading, *lines])) <= 80 - len("  10  ")
