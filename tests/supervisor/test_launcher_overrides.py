"""Claude Code's settings that would lead it elsewhere."""

import json

import pytest

from shared.errors import ControlError
from supervisor.cli.launcher import overrides
from supervisor.cli.launcher.environment import ANY_KEY, Models, told
from supervisor.cli.launcher.overrides import FLAG, settings_arguments

URL = "http://127.0.0.1:8000"
MODELS = Models(main="m", opus="o", sonnet="s", haiku="h")
TOLD = told(URL, None, MODELS)
ELSEWHERE = {"ANTHROPIC_BASE_URL": "https://elsewhere.example"}


@pytest.fixture
def env(tmp_path, monkeypatch):
    (tmp_path / "work/.claude").mkdir(parents=True)
    (tmp_path / ".claude").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(overrides, "MANAGED", tmp_path / "managed.json")
    return {"HOME": str(tmp_path)}


def write(path, **env) -> None:
    path.write_text(json.dumps({"env": env, "model": "opus"}))


def overruled(arguments: list[str]) -> dict[str, str]:
    flag, text = arguments
    assert flag == FLAG
    return json.loads(text)["env"]


def test_nothing_is_in_the_way(env, tmp_path, capsys):
    settings = tmp_path / ".claude/settings.json"
    assert settings_arguments(TOLD, env, []) == []
    for text in ("{", "[]", '{"env": []}', '{"env": {"FOO": "bar", "ANTHROPIC_CUSTOM_HEADERS": "x: y"}}', "\xff"):
        settings.write_text(text, "latin1")
        assert settings_arguments(TOLD, env, []) == []
    write(settings, ANTHROPIC_BASE_URL=URL, ANTHROPIC_API_KEY="")
    assert settings_arguments(TOLD, env, []) == []
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("file", [".claude/settings.json", "work/.claude/settings.json"])
def test_what_is_in_the_way_is_overruled(env, tmp_path, capsys, file):
    write(tmp_path / file, **ELSEWHERE, ANTHROPIC_MODEL="opus", CLAUDE_CODE_USE_BEDROCK=1, FOO="bar")
    wanted = {"ANTHROPIC_BASE_URL": URL, "ANTHROPIC_MODEL": "m", "CLAUDE_CODE_USE_BEDROCK": ""}
    assert overruled(settings_arguments(TOLD, env, ["-p", "hi"])) == wanted
    said = f"~/{file}: this Claude Code gets another {', '.join(wanted)} than you set there"
    assert capsys.readouterr().err == f"kimi-proxy: {said}\n"


def test_the_folder_s_settings_go_before_those_of_the_person(env, tmp_path):
    write(tmp_path / ".claude/settings.json", **ELSEWHERE)
    write(tmp_path / "work/.claude/settings.local.json", ANTHROPIC_BASE_URL=URL)
    assert settings_arguments(TOLD, env, []) == []


def test_its_folder_may_be_elsewhere(env, tmp_path):
    write(tmp_path / ".claude/settings.json", **ELSEWHERE)
    (tmp_path / "other").mkdir()
    assert settings_arguments(TOLD, env | {"CLAUDE_CONFIG_DIR": str(tmp_path / "other")}, []) == []


def test_a_key_has_no_place_on_a_command_line(env, tmp_path):
    write(tmp_path / ".claude/settings.json", ANTHROPIC_AUTH_TOKEN="theirs")
    assert overruled(settings_arguments(TOLD, env, [])) == {"ANTHROPIC_AUTH_TOKEN": ANY_KEY}
    with pytest.raises(
        ControlError, match=r"^~/.claude/settings.json sets ANTHROPIC_AUTH_TOKEN, .*: take it out"
    ) as no:
        settings_arguments(told(URL, "kp-secret", MODELS), env, [])
    assert "kp-secret" not in str(no.value)


@pytest.mark.parametrize("own", [["--settings", "x.json"], ["-p", "--settings={}"]])
def test_a_person_s_own_flag_stays_alone(env, tmp_path, capsys, own):
    write(tmp_path / ".claude/settings.json", **ELSEWHERE)
    assert settings_arguments(TOLD, env, own) == []
    assert "may lead Claude Code elsewhere by ANTHROPIC_BASE_URL, unless your --settings" in capsys.readouterr().err


def test_what_the_administrator_has_set_can_t_be_overruled(env, tmp_path):
    write(tmp_path / "managed.json", **ELSEWHERE)
    with pytest.raises(ControlError, match=r"managed.json sets ANTHROPIC_BASE_URL, and Claude Code takes that"):
        settings_arguments(TOLD, env, [])
