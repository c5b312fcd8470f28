"""Each recipe of docs/recipes.md and docs/claude-code.md does what it says, as it stands there.

Only the port and the model's name are others than those of the document.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml
from fakes.claude_code import install_claude_code
from fakes.documents import block, section, table
from fakes.node import NoNode, install_packages
from fakes.script import FINAL, text_of
from fakes.service import REPOSITORY
from openai import OpenAI

pytestmark = pytest.mark.integration
RECIPES, CLAUDE_CODE = "recipes.md", "claude-code.md"
MODEL = "kimi-k2.6"
TIMEOUT = 60.0
_PREAMBLE = (REPOSITORY / "docs" / RECIPES).read_text().partition("\n## ")[0]
# The configuration that the recipes assume, with a provider in Kimi's place.
CONFIG = block(_PREAMBLE, "toml").replace("[providers.kimi]", "").replace('"kimi"', '"fake"').replace(MODEL, "text-12")
TEXT = "".join(text_of(12))
AFTER_TOOL = "".join(FINAL)


class Recipes:
    """The way from a document to a program's answer."""

    def __init__(self, shared, folder: Path) -> None:
        self._shared = shared
        self.folder = folder
        self.env = {"PATH": os.environ["PATH"], "HOME": os.fspath(folder), "LANG": "C.UTF-8"}

    def written(self, text: str, model: str) -> str:
        """What a person would have written who has this service."""
        assert "127.0.0.1:8000" in text
        return text.replace("127.0.0.1:8000", f"127.0.0.1:{self._shared.port}").replace(MODEL, model)

    def run(self, *command: str, **env: str) -> str:
        """What a program says that ends well."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def file(self, name: str, text: str, model: str = "text-12") -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.written(text, model))
        return os.fspath(path)

    def python(self, title: str, model: str = "text-12", number: int = 0) -> str:
        return self.run(sys.executable, self.file("recipe.py", block(section(RECIPES, title), "python", number), model))

    def asked(self, text: str) -> list[str]:
        """The models that requests with this text have asked the upstream for."""
        return [row.model for row in self._shared.openai.rows_with(text)]


@pytest.fixture
def recipes(shared, tmp_path):
    return Recipes(shared, tmp_path)


@pytest.fixture(scope="session")
def claude():
    try:
        return install_claude_code()
    except NoNode as missing:
        pytest.skip(str(missing))


@pytest.fixture
def claude_env(claude):
    """Of a person who has Claude Code, and wants it to talk to nobody else."""
    return {
        "PATH": f"{claude.parent}:{os.environ['PATH']}",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_AUTOUPDATER": "1",
    }


def test_claude_code(recipes, shared, claude_env):
    programs = recipes.folder / "programs"
    programs.mkdir()
    program = programs / "kimi-proxy"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m supervisor "$@"\n')
    program.chmod(0o755)
    env = shared.service.env | claude_env | {"PATH": f"{programs}:{claude_env['PATH']}"}
    command = block(section(RECIPES, "Claude Code"), "sh")
    assert recipes.run("sh", "-c", command, **env).strip() == TEXT.strip()
    assert shared.service.exit_code is None
    assert recipes.asked("Say hello.") == ["text-12"]


def test_claude_code_by_hand(recipes, claude_env):
    commands = recipes.written(block(section(CLAUDE_CODE, "By hand"), "sh"), "claude-any")
    commands = commands.replace("\nclaude\n", '\nclaude -p "Hello by hand"\n')
    assert recipes.run("sh", "-e", "-c", commands, **claude_env).strip() == TEXT.strip()
    assert recipes.asked("Hello by hand") == ["text-12"]


def test_claude_code_by_its_settings(recipes, claude_env):
    text = block(section(CLAUDE_CODE, "Its settings, and VS Code"), "json")
    recipes.file(".claude/settings.json", text, "claude-any")
    assert recipes.run("claude", "-p", "Hello by settings", **claude_env).strip() == TEXT.strip()
    assert recipes.asked("Hello by settings") == ["text-12"]


def test_curl(recipes):
    text = section(RECIPES, "curl")
    said = recipes.run("sh", "-c", recipes.written(block(text, "sh", 0), "text-12"))
    events = [line.removeprefix("data: ") for line in said.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events[:-1]]
    assert "".join(deltas) == TEXT
    answer, counted = recipes.run("sh", "-e", "-c", recipes.written(block(text, "sh", 1), "text-12")).split("}{")
    assert json.loads(answer + "}")["content"] == [{"type": "text", "text": TEXT}]
    assert json.loads("{" + counted)["input_tokens"] > 0


def test_openai_python(recipes):
    assert recipes.python("openai-python") == TEXT
    assert recipes.asked("Hello from openai-python") == ["text-12"]


def test_anthropic_python(recipes):
    assert recipes.python("anthropic-python") == TEXT
    assert recipes.asked("Hello from anthropic-python") == ["text-12"]


def test_openai_agents_sdk(recipes):
    assert recipes.python("OpenAI Agents SDK", "tools") == AFTER_TOOL
    assert recipes.asked("What is the weather in Oslo?") == ["tools"] * 2
    assert recipes.asked("It is sunny in Oslo") == ["tools"]


def test_langchain(recipes):
    assert recipes.python("LangChain", "reasoning-tools") == AFTER_TOOL
    assert recipes.asked("What is the weather in Tromsø?") == ["reasoning-tools"] * 2
    assert recipes.python("LangChain", number=1) == TEXT
    assert recipes.asked("Hello from LangChain") == ["text-12"]


@pytest.mark.parametrize(
    ("number", "model", "prompt", "said"),
    [(0, "tools", "What is the weather in Bergen?", AFTER_TOOL), (1, "text-12", "Hello from the AI SDK", TEXT)],
)
def test_vercel_ai_sdk(recipes, number, model, prompt, said):
    try:
        modules = install_packages("vercel-ai-sdk")
    except NoNode as missing:
        pytest.skip(str(missing))
    (recipes.folder / "node_modules").symlink_to(modules)
    program = recipes.file("recipe.mjs", block(section(RECIPES, "Vercel AI SDK"), "js", number), model)
    assert recipes.run("node", program) == said
    assert set(recipes.asked(prompt)) == {model}


def test_continue(recipes):
    """It sends the key, streams, and adds `chat/completions` to `apiBase`."""
    [model] = yaml.safe_load(recipes.written(block(section(RECIPES, "Continue"), "yaml"), "text-12"))["models"]
    assert model["provider"] == "openai"
    body = {"model": model["model"], "stream": True, "messages": [{"role": "user", "content": "Hello from Continue"}]}
    with httpx.stream(
        "POST",
        f"{model['apiBase']}/chat/completions",
        json=body,
        headers={"authorization": f"Bearer {model['apiKey']}"},
    ) as response:
        lines = [line for line in response.iter_lines() if line]
    assert (response.status_code, lines[-1]) == (200, "data: [DONE]")
    assert recipes.asked("Hello from Continue") == ["text-12"]


def test_cline(recipes):
    """It asks by OpenAI's SDK: streamed, with usage, and with messages that are lists of parts."""
    fields = table(recipes.written(section(RECIPES, "Cline"), "text-12"))
    with (
        OpenAI(base_url=fields["Base URL"], api_key=fields["API Key"]) as client,
        client.chat.completions.create(
            model=fields["Model ID"],
            messages=[
                {"role": "system", "content": "You are Cline."},
                {"role": "user", "content": [{"type": "text", "text": "Hello from Cline"}]},
            ],
            stream=True,
            stream_options={"include_usage": True},
        ) as stream,
    ):
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
    assert chunks[-1].usage.completion_tokens == 12
    assert recipes.asked("Hello from Cline") == ["text-12"]
