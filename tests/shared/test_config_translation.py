"""`[providers.<name>]` `normalise` and `translation`, and `display_name`: defaults, presets, merging, refusals."""

import re

import msgspec
import pytest

from shared.config import Config, Translation, default_config, parse_config
from shared.config.presets import PRESETS
from shared.errors import ConfigError

FAKE = '[providers.fake]\nbase_url = "http://h/v1"\n'


def translation_of(text: str, name: str = "fake") -> Translation:
    return parse_config(text, "config.toml").config.providers[name].translation


def test_a_provider_that_nobody_knows_has_the_defaults_of_its_dialect():
    assert translation_of(FAKE) == Translation()
    assert translation_of(FAKE + 'dialect = "anthropic"') == Translation(replay_thinking="thinking")


def test_every_key_arrives():
    text = """
[providers.fake]
base_url = "http://h/v1"
normalise = ["tool_calls", "think", "tool_calls", "model"]
[providers.fake.translation]
thinking = "reasoning"
replay_thinking = "reasoning"
needs_thinking = true
max_tokens = "max_completion_tokens"
max_output_tokens = 8192
documents = "file"
cache_control = true
output_format = "off"
partial = true
sampling = false
call_signatures = true
web_search = "plugin"
[models."claude-kimi"]
provider = "fake"
model = "text"
display_name = "Kimi (fast)"
"""
    parsed = parse_config(text, "config.toml")
    provider = parsed.config.providers["fake"]
    assert provider.normalise == ("tool_calls", "think", "model")
    assert provider.translation == Translation(
        thinking="reasoning",
        replay_thinking="reasoning",
        needs_thinking=True,
        max_tokens="max_completion_tokens",
        max_output_tokens=8192,
        documents="file",
        cache_control=True,
        output_format="off",
        partial=True,
        sampling=False,
        call_signatures=True,
        web_search="plugin",
    )
    assert parsed.config.models[0].display_name == "Kimi (fast)"
    assert parsed.warnings == ()
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(parsed.config), type=Config) == parsed.config


@pytest.mark.parametrize("name", PRESETS)
def test_presets_come_with_theirs(name: str):
    assert translation_of(f"[providers.{name}]", name) == PRESETS[name].translation


def test_a_preset_of_the_environment_comes_with_its_own():
    assert default_config({"KIMI_API_KEY": "k"}).providers["kimi"].translation == PRESETS["kimi"].translation


def test_the_file_changes_single_keys_of_a_preset():
    own = translation_of(
        "[providers.kimi]\n[providers.kimi.translation]\npartial = false\nmax_output_tokens = 5", "kimi"
    )
    assert own == msgspec.structs.replace(PRESETS["kimi"].translation, partial=False, max_output_tokens=5)


def test_another_address_keeps_a_preset_s_and_another_dialect_does_not():
    address = '[providers.kimi]\nbase_url = "http://h/v1"\n'
    assert translation_of(address, "kimi") == PRESETS["kimi"].translation
    other = address + 'dialect = "anthropic"\n[providers.kimi.translation]\nmax_output_tokens = 5\n'
    assert translation_of(other, "kimi") == Translation(replay_thinking="thinking", max_output_tokens=5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("normalize = ['think']", r':3: \[providers.fake\] has no key "normalize": did you mean "normalise"\?'),
        ("normalise = 'think'", r":3: \[providers.fake\] normalise must be a list"),
        (
            "normalise = ['think',\n 'tool_call']",
            r':4: \[providers.fake\] normalise \(entry 2\) must be "model" or "think" or "tool_calls": did you mean'
            ' "tool_calls"',
        ),
        ("translation = 'none'", r":3: \[providers.fake\] translation must be a table"),
        (
            "translation = {tinking = 'off'}",
            r':3: \[providers.fake.translation\] has no key "tinking": did you mean "thinking"\?',
        ),
        ("translation = {needs_thinking = 1}", r":3: .*translation\] needs_thinking = 1 must be true or false"),
        (
            "translation.max_output_tokens = 0",
            r":3: .*translation\] max_output_tokens = 0 must be a whole number from 1",
        ),
        (
            "[providers.fake.translation]\ndocuments = 'files'",
            r':4: .* must be "file" or "text": did you mean "file"',
        ),
        (
            "[providers.fake.translation]\nreplay_thinking = 'thinking'",
            r':4: \[providers.fake.translation\] replay_thinking = "thinking" must be "reasoning_content"'
            r' or "reasoning" or "off" where the dialect is "openai"',
        ),
        (
            "dialect = 'anthropic'\ntranslation.replay_thinking = 'reasoning'",
            r':4: .* replay_thinking = "reasoning" must be "thinking" or "off" where the dialect is "anthropic"',
        ),
        (
            "translation.web_search = 'tool'",
            r':3: .* web_search = "tool" must be "off" or "builtin" or "plugin" where the dialect is "openai"',
        ),
        (
            "dialect = 'anthropic'\ntranslation.web_search = 'builtin'",
            r':4: .* web_search = "builtin" must be "off" or "tool" where the dialect is "anthropic"',
        ),
        ("[models.a]\nprovider = 'fake'\ndisplay_name = ' '", r":5: \[models.a\] display_name is no usable name"),
        ("[models.a]\nprovider = 'fake'\nname = 'A'", r':5: \[models.a\] has no key "name"'),
    ],
)
def test_refuses_with_file_line_key_and_fix(text: str, expected: str):
    with pytest.raises(ConfigError) as caught:
        parse_config(FAKE + text, "config.toml")
    assert re.match("config.toml" + expected, str(caught.value)), str(caught.value)


def test_a_pattern_s_display_name_is_warned_about():
    text = FAKE + '[models."claude-*"]\nprovider = "fake"\ndisplay_name = "Claude"\n'
    assert parse_config(text, "c.toml").warnings == (
        'c.toml:5: [models."claude-*"] display_name has no effect: patterns are in no list of models',
    )
