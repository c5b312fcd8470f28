"""`[health]`: its defaults, and its bounds."""

import pytest

from shared.config import HealthRules, parse_config
from shared.errors import ConfigError
from supervisor.health import MAX_KEPT


def test_the_defaults():
    assert parse_config("").config.health == parse_config("[health]").config.health == HealthRules()


def test_each_key():
    text = "[health]\nwindow = 30\nmax_errors = 0\ncircuit_breaker = true\nopen_time = 1.5"
    assert parse_config(text).config.health == HealthRules(
        window=30.0, max_errors=0, circuit_breaker=True, open_time=1.5
    )


@pytest.mark.parametrize("line", ["window = 0.5", "max_errors = -1", "max_errors = 10001", "open_time = 0"])
def test_out_of_bounds(line):
    with pytest.raises(ConfigError, match=rf"config.toml:2: .*{line.partition(' ')[0]}"):
        parse_config(f"[health]\n{line}", "config.toml")


def test_more_errors_are_kept_than_can_be_allowed():
    with pytest.raises(ConfigError):
        parse_config(f"[health]\nmax_errors = {MAX_KEPT}")
