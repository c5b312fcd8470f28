"""`kimi-proxy provider` and `models`: what they show, what a switch changes in the file, and what it leaves."""

import json
import tomllib

import pytest
import trio
from fakes.openai_upstream import serve_openai
from fakes.upstream import json_response, serve_upstream

from shared.config import parse_config
from shared.errors import ControlError
from supervisor import cli
from supervisor.cli.launcher.upstream_models import upstream_models
from supervisor.cli.models import listed

TEXT = """\
# mine
[providers.kimi]          # the first
api_key_env = "KIMI_API_KEY"
[providers.groq]
api_key_env = "GROQ_API_KEY"

# for Claude Code
[models."claude-*"]
provider = "kimi"         # who
model = "kimi-k2.6"
max_context_size = 262144
price = { input = 1.0, output = 4.0 }
[models.default]
provider = "kimi"
model = "kimi-k2.6"
[models.fast]
provider = "groq"
model = "openai/gpt-oss-120b"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An instance that does not run, whose configuration is `config.toml` in its folder."""
    for name in ("STATE", "RUNTIME", "LOGS"):
        monkeypatch.setenv(f"{name}_DIRECTORY", str(tmp_path / name.lower()))
    for name in ("KIMI_API_KEY", "MOONSHOT_API_KEY", "GROQ_API_KEY", "MISTRAL_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KIMI_PROXY_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("KIMI_API_KEY", "sk-0123456789abcdef")
    (tmp_path / "config.toml").write_text(TEXT)
    return tmp_path


@pytest.fixture
def run(capsys):
    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(list(arguments))
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def models_in(folder):
    return tomllib.loads((folder / "config.toml").read_text())["models"]


def test_it_shows_who_answers(folder, run):
    code, out, err = run("provider")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[1] == ["*", "kimi", "kimi-k2.6", "yes", "https://api.moonshot.ai/v1"]
    assert lines[2] == ["groq", "-", "missing", "https://api.groq.com/openai/v1"]
    assert "kimi (*) answers Claude Code; another: kimi-proxy provider groq" in err
    code, out, _ = run("provider", "--json")
    kimi, groq = json.loads(out)["providers"]
    assert (kimi["claude_code"], kimi["models"], kimi["key"]) == (True, ["kimi-k2.6"], "yes")
    assert (groq["claude_code"], groq["models"], groq["key"]) == (False, [], "missing")


def test_a_switch_takes_over_what_claude_code_asks_for(folder, run):
    code, out, err = run("provider", "groq")
    assert (code, out) == (0, "")
    assert "Claude Code is answered by groq now, with openai/gpt-oss-120b" in err
    assert "its key is missing: kimi-proxy set-key groq" in err
    assert models_in(folder) == {
        "claude-*": {"provider": "groq", "model": "openai/gpt-oss-120b"},
        "default": {"provider": "groq", "model": "openai/gpt-oss-120b"},
        "fast": {"provider": "groq", "model": "openai/gpt-oss-120b"},
    }
    text = (folder / "config.toml").read_text()
    for comment in ("# mine", "# the first", "# for Claude Code", "# who"):
        assert comment in text
    code, _, err = run("provider", "groq")
    assert code == 0
    assert "answers Claude Code already" in err
    assert (folder / "config.toml").read_text() == text
    assert run("provider", "kimi")[0] == 0
    assert models_in(folder)["claude-*"] == {"provider": "kimi", "model": "kimi-k2.6"}


def test_another_model_of_it(folder, run):
    code, _, err = run("provider", "kimi", "--model", "kimi-k2-thinking")
    assert (code, "now, with kimi-k2-thinking" in err) == (0, True)
    assert models_in(folder)["claude-*"]["model"] == "kimi-k2-thinking"


def test_what_was_led_elsewhere_on_purpose_stays(folder, run):
    config = folder / "config.toml"
    config.write_text(TEXT.replace('[models.default]\nprovider = "kimi"', '[models.default]\nprovider = "groq"'))
    code, _, err = run("provider", "kimi", "--model", "other")
    assert code == 0
    assert models_in(folder)["default"]["provider"] == "groq"
    assert "as before: default, fast" in err


def test_one_that_is_known_needs_only_its_key(folder, run, monkeypatch):
    code, _, err = run("provider", "mistral")
    assert (code, "kimi-proxy setup --provider mistral" in err) == (1, True)
    assert (folder / "config.toml").read_text() == TEXT
    monkeypatch.setenv("MISTRAL_API_KEY", "some-key")
    assert run("provider", "mistral")[0] == 0
    assert models_in(folder)["claude-*"] == {"provider": "mistral", "model": "mistral-large-latest"}
    assert run("provider", "echo")[0] == 0
    assert models_in(folder)["claude-*"] == {"provider": "echo", "model": "echo"}


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["grok"], 1, 'there is no provider grok: did you mean "groq"?'),
        (["nobody-knows-it"], 1, "kimi-proxy setup adds one"),
        (["--model", "m"], 2, "name that, too"),
    ],
)
def test_what_can_not_be_done(folder, run, arguments, code, says):
    found, out, err = run("provider", *arguments)
    assert (found, out, says in err) == (code, "", True), err
    assert (folder / "config.toml").read_text() == TEXT


def test_a_provider_of_ones_own_has_no_model_by_itself(folder, run):
    own = '\n[providers.own]\nbase_url = "http://127.0.0.1:9/v1"\n'
    (folder / "config.toml").write_text(TEXT + own)
    code, _, err = run("provider", "own")
    assert (code, "say it by --model" in err) == (2, True)
    assert run("provider", "own", "--model", "big")[0] == 0
    assert models_in(folder)["claude-*"] == {"provider": "own", "model": "big"}


def test_without_any_file_the_users_own_is_made(folder, run, monkeypatch):
    (folder / "config.toml").unlink()
    assert run("provider", "kimi")[0] == 0
    assert models_in(folder)["claude-*"]["provider"] == "kimi"
    assert (folder / "config.toml").stat().st_mode & 0o777 == 0o600


# models


def test_the_models(folder, run):
    code, out, err = run("models")
    assert code == 0
    lines = [line.split() for line in out.splitlines()[1:]]
    assert lines == [
        ["*", "claude-*", "kimi", "kimi-k2.6", "262,144", "1.00", "4.00"],
        ["default", "kimi", "kimi-k2.6", "262,144", "1.00", "4.00"],
        ["fast", "groq", "openai/gpt-oss-120b", "131,072", "0.15", "0.60"],
    ]
    assert "* answers Claude Code" in err
    told = json.loads(run("models", "--json")[1])
    assert told["providers"] == ["kimi", "groq"]
    claude, _, fast = told["models"]
    assert (claude["name"], claude["claude_code"], claude["published"]) == ("claude-*", True, False)
    assert (fast["claude_code"], fast["published"], fast["context"]) == (False, True, 131072)


def test_families_of_their_own_are_all_marked():
    text = '[providers.echo]\n[models."claude-opus-*"]\nprovider = "echo"\n[models.default]\nprovider = "echo"\n'
    assert [row.claude_code for row in listed(parse_config(text).config)] == [True, True]
    assert listed(parse_config('[providers.other]\nbase_url = "http://127.0.0.1:1"').config) == []


async def test_a_provider_s_own_list():
    names = {"data": [{"id": "b"}, {"id": "models/a", "owned_by": "x"}, {"name": "c\x1b"}, {}]}
    async with serve_upstream() as upstream:
        upstream.script(json_response(names))
        provider = parse_config(f'[providers.fake]\nbase_url = "{upstream.base_url}"').config.providers["fake"]
        assert await trio.to_thread.run_sync(upstream_models, provider, "a-key") == ["a", "b", "c?"]
        request = await upstream.wait_request()
        assert (request.method, request.path) == ("GET", "/v1/models")
        assert request.headers["authorization"] == "Bearer a-key"
        for answer, says in (
            (json_response({}, 404), "has no list of its models"),
            (json_response({"error": {"message": "who?"}}, 401), "does not know this key (401: who?)"),
            (json_response({"models": []}), "is no list of models"),
        ):
            upstream.script(answer)
            with pytest.raises(ControlError) as caught:
                await trio.to_thread.run_sync(upstream_models, provider, "a-key")
            assert says in str(caught.value)


async def test_the_list_by_command(folder, capsys):
    async with serve_openai() as upstream:
        (folder / "config.toml").write_text(f'[providers.fake]\nbase_url = "{upstream.base_url}"\n')
        upstream.server.script(json_response({"data": [{"id": "text"}]}))
        assert await trio.to_thread.run_sync(cli.main, ["models", "--upstream"]) == 0
        said = capsys.readouterr()
        assert said.out == "text\n"
        assert "kimi-proxy provider fake --model MODEL" in said.err
    assert await trio.to_thread.run_sync(cli.main, ["models", "--upstream", "fike"]) == 1
    assert 'did you mean "fake"?' in capsys.readouterr().err
