"""What Claude Code is told, and which words of the command line are whose."""

import pytest

from shared.config import parse_config
from shared.errors import ControlError
from shared.routing import resolve
from supervisor import cli
from supervisor.cli.arguments import make_parser, parse
from supervisor.cli.launcher.commandline import split
from supervisor.cli.launcher.environment import ANY_KEY, Models, choose_models, claude_environment

PROVIDERS = """
[providers.fake]
dialect = "openai"
base_url = "http://127.0.0.1:1/v1"
[providers.groq]
api_key_env = "NONE"
[providers.anthropic]
api_key_env = "NONE"
"""


def config(models: str):
    return parse_config(PROVIDERS + models).config


def targets(config, models: Models) -> list[str]:
    return [
        "/".join((target.provider, target.model))
        for name in (models.main, models.opus, models.sonnet, models.haiku)
        for target in resolve(config, name)[:1]
    ]


@pytest.mark.parametrize(
    ("models", "main", "leads_to"),
    [
        ('[models."claude-*"]\nprovider = "fake"\nmodel = "kimi-k2"', "claude-kimi-k2", "fake/kimi-k2"),
        ('[models.default]\nprovider = "fake"\nmodel = "kimi-k2"', "kimi-k2", "fake/kimi-k2"),
        ('[models."*"]\nprovider = "fake"\nmodel = "a/b"', "a/b", "fake/a/b"),
        ('[models."claude-*"]\nprovider = "fake"\nmodel = "claude-x"', "claude-sonnet-4-6", "fake/claude-x"),
        ('[models."*claude*"]\nprovider = "fake"\nmodel = "kimi-k2"', "claude-sonnet-4-6", "fake/kimi-k2"),
        ('[models."claude-*"]\nprovider = "anthropic"', "claude-sonnet-4-6", "anthropic/claude-sonnet-4-6"),
        ('[models.default]\nprovider = "fake"', "claude-sonnet-4-6", "fake/claude-sonnet-4-6"),
        ('[models.default]\nprovider = "groq"', "groq/openai/gpt-oss-120b", "groq/openai/gpt-oss-120b"),
    ],
)
def test_the_model_is_where_the_configuration_sends_claude_code(models, main, leads_to):
    made = config(models)
    chosen = choose_models(made, None)
    assert chosen.main == main
    assert targets(made, chosen)[:3:2] == [leads_to] * 2


def test_fallbacks_and_the_size_of_the_context_are_kept():
    made = config(
        '[models."claude-*"]\nprovider = "fake"\nmodel = "small"\nmax_context_size = 131072\nfallbacks = ["groq/other"]'
    )
    chosen = choose_models(made, None)
    assert len(resolve(made, chosen.main)) == 2
    assert claude_environment({}, "http://x:1", None, chosen)["CLAUDE_CODE_AUTO_COMPACT_WINDOW"] == "131072"


def test_a_family_may_have_a_model_of_its_own():
    made = config(
        '[models."claude-*"]\nprovider = "fake"\nmodel = "large"\n'
        '[models."claude-haiku-*"]\nprovider = "groq"\nmodel = "small"\n'
        '[models.claude-opus-4-8]\nprovider = "fake"\nmodel = "huge"'
    )
    assert targets(made, choose_models(made, None)) == ["fake/large", "fake/huge", "fake/large", "groq/small"]
    assert targets(made, choose_models(made, "fake/x")) == ["fake/x", "fake/x", "fake/x", "groq/small"]
    assert choose_models(made, "opus").main == "opus"


def test_a_model_that_is_asked_for():
    made = config('[models."claude-*"]\nprovider = "fake"\nmodel = "large"\n[models.plain]\nprovider = "fake"')
    assert choose_models(made, "fake/slow") == Models(
        main="fake/slow", opus="fake/slow", sonnet="fake/slow", haiku="fake/slow"
    )
    with pytest.raises(ControlError, match="no model is called nobody/has; there are plain, fake/large"):
        choose_models(made, "nobody/has")
    assert choose_models(None, "any").main == "any"


def test_without_a_model_for_claude_code_it_says_what_to_do():
    with pytest.raises(ControlError, match="run `kimi-proxy setup`"):
        choose_models(config('[models.plain]\nprovider = "fake"'), None)
    with pytest.raises(ControlError, match="fake, groq, anthropic"):
        choose_models(config(""), "sonnet")


def test_the_environment_of_the_child():
    models = Models(main="m", opus="o", sonnet="s", haiku="h")
    before = {
        "HOME": "/home/me",
        "ANTHROPIC_API_KEY": "secret",
        "ANTHROPIC_BASE_URL": "https://elsewhere",
        "CLAUDE_CODE_USE_BEDROCK": "1",
        "http_proxy": "http://proxy:3128",
        "NO_PROXY": "example.org",
    }
    made = claude_environment(before, "http://127.0.0.1:8000", None, models)
    assert made == {
        "HOME": "/home/me",
        "http_proxy": "http://proxy:3128",
        "NO_PROXY": "example.org,127.0.0.1",
        "no_proxy": "example.org,127.0.0.1",
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:8000",
        "ANTHROPIC_AUTH_TOKEN": ANY_KEY,
        "ANTHROPIC_MODEL": "m",
        "ANTHROPIC_DEFAULT_OPUS_MODEL": "o",
        "ANTHROPIC_DEFAULT_SONNET_MODEL": "s",
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": "h",
        "ANTHROPIC_DEFAULT_FABLE_MODEL": "o",
        "ANTHROPIC_SMALL_FAST_MODEL": "h",
    }
    assert before["ANTHROPIC_API_KEY"] == "secret"
    made = claude_environment({"NO_PROXY": "*", "ALL_PROXY": "x"}, "http://[::1]:8000", "kp-key", models)
    assert (made["NO_PROXY"], made["ANTHROPIC_AUTH_TOKEN"]) == ("*", "kp-key")
    assert "NO_PROXY" not in claude_environment({}, "http://127.0.0.1:8000", None, models)


@pytest.mark.parametrize(
    ("words", "ours", "theirs"),
    [
        ("-p hello", "", "-p hello"),
        ("-p hello --model m --output-format json", "--model m", "-p hello --output-format json"),
        ("--model=m --config c --claude=x -c", "--model=m --config c --claude=x", "-c"),
        ("--print -- --model m --help -- --", "", "--print --model m --help -- --"),
        ("--help", "--help", ""),
        ("-- --help", "", "--help"),
        ("mcp --help", "", "mcp --help"),
        ("--model", "--model", ""),
        ("--mod m --conf c", "", "--mod m --conf c"),
    ],
)
def test_whose_words_are_whose(words, ours, theirs):
    assert split(words.split()) == (ours.split(), theirs.split())


def test_the_parser_knows_them():
    arguments = parse(make_parser(), ["launch", "-p", "two words", "--model", "m", "--", "--help"])
    assert (arguments.model, arguments.claude, arguments.config) == ("m", None, None)
    assert arguments.claude_arguments == ["-p", "two words", "--help"]


def test_wrong_usage(capsys):
    for words in (["--model"], ["--model", "--claude"]):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["launch", *words])
        assert exit_.value.code == 2
        assert "--model: expected one argument" in capsys.readouterr().err
