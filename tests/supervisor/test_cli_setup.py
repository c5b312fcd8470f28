"""`kimi-proxy setup` at a real terminal, and by flags: what is asked, what is written, and where the key never is."""

import io
import os
import socket
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from fakes.key_checker import KeyChecker
from fakes.terminal import Terminal

from supervisor import cli

ROOT = Path(__file__).parents[2]
SETUP = [sys.executable, "-m", "supervisor", "setup"]
KEY = "sk-canary-9f3b1c77a2"
WRONG = "sk-wrong-5512d0e8b4"
CTRL_C, CTRL_D = b"\x03", b"\x04"


@pytest.fixture
def env(tmp_path):
    """A fresh home, in which Claude Code is installed and nothing else."""
    home, programs = tmp_path / "home", tmp_path / "bin"
    home.mkdir()
    programs.mkdir()
    claude = programs / "claude"
    claude.write_text("#!/bin/sh\necho '2.1.197 (Claude Code)'\n")
    claude.chmod(0o755)
    (home / ".bashrc").write_text("# mine\n")
    return {
        "PATH": f"{programs}:/usr/bin:/bin",
        "HOME": str(home),
        "SHELL": "/bin/bash",
        "TERM": "xterm",
        "XDG_RUNTIME_DIR": str(tmp_path / "runtime"),
        "PYTHONPATH": str(ROOT),
        **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE")},
    }


@pytest.fixture
def provider():
    with KeyChecker(KEY, "m1") as provider:
        yield provider


@pytest.fixture
def config(env):
    return Path(env["HOME"]) / ".config/kimi-proxy/config.toml"


def tree(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """Every path below `folder` with its mode, and what is in it."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def setup(env, monkeypatch, capsys):
    """Run it without a terminal: exit code, stdout, stderr."""

    def run(*arguments: str, stdin: str = "", **more: str) -> tuple[int, str, str]:
        for name in os.environ:
            if not name.startswith("COVERAGE"):
                monkeypatch.delenv(name)
        for name, value in {**env, **more}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(env["HOME"])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = cli.main(["setup", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


class Dialogue:
    """A person who waits for a question before answering it."""

    def __init__(self, terminal: Terminal, process: "subprocess.Popen[bytes]") -> None:
        self.terminal = terminal
        self.process = process
        self._seen = 0

    def until(self, text: str) -> None:
        """Read on to `text`."""
        self.terminal.wait(lambda: text in self.terminal.received[self._seen :])
        self._seen = self.terminal.received.index(text, self._seen) + len(text)

    def answer(self, question: str, keys: bytes) -> None:
        self.until(question)
        self.terminal.type(keys)

    def end(self) -> int:
        return self.terminal.wait_exit(self.process)


def start(terminal: Terminal, env, *arguments: str) -> Dialogue:
    return Dialogue(terminal, terminal.run(["/usr/bin/env", "-C", env["HOME"], *SETUP, *arguments], env))


def nowhere(secret: str, terminal: Terminal, config: Path) -> None:
    """Neither on the terminal nor in the configuration."""
    assert secret not in terminal.received
    if config.exists():
        assert secret not in config.read_text()


def by_hand(provider: KeyChecker) -> list[tuple[str, bytes]]:
    """The questions of a whole setup, in order, and the answers."""
    return [
        ("1 to 13 [1]: ", b"other\n"),
        ("A name for it [custom]: ", b"\n"),
        ("https://api.example.com/v1: ", f"{provider.base_url}\n".encode()),
        ("Key for custom [Enter: none], it is not shown: ", f"{KEY}\n".encode()),
        ("Model of custom: ", b"m1\n"),
        ("alias", b"n\n"),
    ]


def test_a_new_user(env, provider, config):
    with Terminal(120, 60) as terminal:
        dialogue = start(terminal, env)
        for question, keys in by_hand(provider):
            dialogue.answer(question, keys)
        assert dialogue.end() == 0
        nowhere(KEY, terminal, config)
        assert "kimi-k2.6" in terminal.received
        assert "about 40" in terminal.received
        assert "0.95 / 4.00" in terminal.received
        assert "a key of 20 characters" in terminal.received
        assert "It answers" in terminal.received
        assert "launch" in terminal.received.rpartition("Next:")[2]
        assert terminal.settings_now() == terminal.settings
    assert provider.asked == [(KEY, "m1")]
    key_file = config.parent / "keys" / "custom"
    assert key_file.read_text() == f"{KEY}\n"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (key_file, key_file.parent, config)] == [0o600, 0o700, 0o600]
    target = {"provider": "custom", "model": "m1"}
    assert tomllib.loads(config.read_text()) == {
        "providers": {"custom": {"base_url": provider.base_url, "api_key_file": "keys/custom"}},
        "models": {"claude-*": target, "default": target},
    }


@pytest.mark.parametrize("at", range(6))
def test_ctrl_c_leaves_everything_as_it_was(env, provider, config, at):
    config.parent.mkdir(parents=True)
    config.write_text("# mine\n[server]\nworkers = 3\n")
    before = tree(Path(env["HOME"]))
    with Terminal(120, 60) as terminal:
        dialogue = start(terminal, env)
        for question, keys in by_hand(provider)[:at]:
            dialogue.answer(question, keys)
        dialogue.until(by_hand(provider)[at][0])
        assert KEY.encode() not in Path(f"/proc/{dialogue.process.pid}/cmdline").read_bytes()
        terminal.type(b"half an answer" + CTRL_C)
        assert dialogue.end() == 130
        nowhere(KEY, terminal, config)
        assert "Nothing was written." in terminal.received
        assert "Traceback" not in terminal.received
        assert terminal.settings_now() == terminal.settings
    assert tree(Path(env["HOME"])) == before


def test_enter_takes_what_is_there(env, config, provider):
    """Once everything is set up, Enter at every question changes nothing."""
    config.parent.mkdir(parents=True)
    (config.parent / "my_key").write_text(KEY)
    (config.parent / "my_key").chmod(0o600)
    config.write_text(
        f'# mine\n[providers.local]  # here\nbase_url = "{provider.base_url}"\napi_key_file = "my_key"\n\n'
        '[models."claude-*"]\nprovider = "local"  # yes\nmodel = "m1"\nfallbacks = ["local/m2"]\n\n'
        '[models.default]\nprovider = "local"\nmodel = "m1"\n'
    )
    before = tree(config.parent)
    with Terminal(120, 60) as terminal:
        dialogue = start(terminal, env)
        dialogue.answer("1 to 14 [1]: ", b"\n")
        dialogue.answer(f"[Enter: the one in {config.parent}/my_key], it is not shown: ", b"\n")
        dialogue.answer("Model of local [m1]: ", b"\n")
        dialogue.answer("alias", b"n\n")
        assert dialogue.end() == 0
        nowhere(KEY, terminal, config)
    assert provider.asked == [(KEY, "m1")]
    assert tree(config.parent) == before


def test_wrong_answers_are_explained_and_asked_for_again(env, config, provider):
    with Terminal(120, 60) as terminal:
        dialogue = start(terminal, env)
        dialogue.answer(": ", b"")
        dialogue.answer("1 to 13 [1]: ", b"99\n")
        dialogue.until("type a number from 1 to 13")
        dialogue.answer("[1]: ", b"grok\n")
        dialogue.until("did you mean groq?")
        dialogue.answer("[1]: ", b"OTHER\n")
        dialogue.answer("custom]: ", b"a b\n")
        dialogue.until("take at most 64 letters")
        dialogue.answer("custom]: ", b"local\n")
        dialogue.answer("/v1: ", b"\n")
        dialogue.until("type an answer")
        dialogue.answer("/v1: ", b"localhost\n")
        dialogue.until("must be an address")
        dialogue.answer("/v1: ", f"{provider.base_url}\n".encode())
        dialogue.answer("not shown: ", b"two words\n")
        dialogue.until("it has blanks")
        dialogue.answer("not shown: ", "schlüssel\n".encode())
        dialogue.until("no ASCII")
        dialogue.answer("not shown: ", f"{WRONG}\n".encode())
        dialogue.answer("Model of local: ", b"nope\n")
        dialogue.until("What now?")
        dialogue.answer("[1]: ", b"\n")
        dialogue.answer("not shown: ", f"{KEY}\n".encode())
        dialogue.until("What now?")
        dialogue.answer("[2]: ", b"\n")
        dialogue.answer("Model [nope]: ", b"m1\n")
        dialogue.until("It answers")
        dialogue.answer("alias", b"maybe\n")
        dialogue.until("type y or n")
        dialogue.answer("]: ", b"n\n")
        assert dialogue.end() == 0
        for secret in (KEY, WRONG, "two words", "schl"):
            nowhere(secret, terminal, config)
    assert provider.asked == [(WRONG, "nope"), (KEY, "nope"), (KEY, "m1")]
    assert tomllib.loads(config.read_text())["models"]["default"]["model"] == "m1"
    assert (config.parent / "keys/local").read_text().strip() == KEY


def test_a_provider_that_refuses_can_be_given_up(env, config, provider):
    before = tree(Path(env["HOME"]))
    flags = ["--provider", "local", "--base-url", provider.base_url, "--model", "m1"]
    with Terminal(120, 60) as terminal:
        dialogue = start(terminal, env, *flags)
        dialogue.answer("not shown: ", f"{WRONG}\n".encode())
        dialogue.answer("[1]: ", b"quit\n")
        assert dialogue.end() == 1
        nowhere(WRONG, terminal, config)
        dialogue = start(terminal, env, *flags)
        dialogue.answer("not shown: ", CTRL_D)
        assert dialogue.end() == 1
        assert terminal.settings_now() == terminal.settings
    assert tree(Path(env["HOME"])) == before


def test_ctrl_c_while_the_provider_is_silent(env, config):
    before = tree(Path(env["HOME"]))
    with socket.create_server(("127.0.0.1", 0)) as silent, Terminal(120, 60) as terminal:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        dialogue = start(terminal, env, "--provider", "local", "--base-url", url, "--model", "m1")
        dialogue.answer("not shown: ", f"{KEY}\n".encode())
        dialogue.until("one token of m1")
        with silent.accept()[0] as connection:
            connection.recv(1)
            terminal.type(CTRL_C)
            assert dialogue.end() == 130
        nowhere(KEY, terminal, config)
    assert tree(Path(env["HOME"])) == before


def test_a_key_as_an_argument_is_hidden(env, config, provider):
    flags = ["--provider", "local", "--base-url", provider.base_url, "--key", KEY]
    with Terminal(120, 60) as terminal:
        dialogue = start(terminal, env, *flags)
        dialogue.until("Model of local: ")
        arguments = Path(f"/proc/{dialogue.process.pid}/cmdline").read_bytes()
        assert KEY.encode() not in arguments
        assert b"--key\0xxxxxxxx" in arguments
        assert "history" in terminal.received
        terminal.type(CTRL_C)
        assert dialogue.end() == 130


def test_by_flags_alone(setup, config, provider):
    flags = ["--provider", "local", "--base-url", provider.base_url, "--model", "m1", "--key", "-", "--no-alias"]
    code, out, err = setup(*flags, stdin=f"{KEY}\n")
    assert code == 0, err
    assert "launch" in out
    assert KEY not in out + err + config.read_text()
    before = tree(config.parent)
    assert setup(*flags, stdin=f"{KEY}\n")[0] == 0
    assert tree(config.parent) == before
    # From here on the key is known.
    assert setup("--provider", "local", "--yes")[0] == 0
    assert setup("--yes")[0] == 0
    assert tree(config.parent) == before


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        ([], 2, "--provider NAME"),
        (["--provider", "kimmi"], 2, 'did you mean "kimi"'),
        (["--provider", "local"], 2, "--base-url URL"),
        (["--provider", "kimi"], 2, "--key -"),
        (["--provider", "kimi", "--yes"], 2, "--key -"),
        (["--provider", "a/b", "--base-url", "http://127.0.0.1:1"], 2, "letters, digits"),
        (["--provider", "kimi", "--base-url", "127.0.0.1:1"], 2, "must be an address"),
        (["--provider", "local", "--base-url", "http://127.0.0.1:1", "--key", "-"], 1, "is empty"),
        (["--provider", "local", "--base-url", "http://127.0.0.1:1", "--key", "k"], 2, "--model NAME"),
        (["--provider", "local", "--base-url", "http://127.0.0.1:1", "--key", "k", "--model", "m"], 1, "--no-check"),
        (["--provider", "kimi", "--key", "sk-kimi-k"], 2, "--provider kimi-code"),
        (["--config", "/proc/no/c.toml", "--provider", "kimi", "--key", "k", "--no-check"], 1, "can't be written"),
    ],
)
def test_without_a_terminal_flags_are_asked_for(setup, env, config, flags, code, said):
    before = tree(Path(env["HOME"]))
    ended, out, err = setup(*flags)
    assert (ended, out) == (code, ""), err
    assert said in err
    assert tree(Path(env["HOME"])) == before


def test_what_a_person_has_written_stays(setup, config):
    config.parent.mkdir(parents=True)
    text = (
        "# mine\n[server]  # here\nworkers = 3\n\n[providers.kimi]\n"
        'api_key_env = "MY_KEY"\nmax_retries = 5  # five\n\n# about groq\n[providers.groq]\n\n'
        '[models."claude-*haiku*"]\nprovider = "groq"\nmodel = "small"\n\n'
        '[models."claude-*"]\nprovider = "groq"\nmodel = "large"\nprice = {input = 1.0}\nfallbacks = ["kimi/k"]\n\n'
        '[models.default]\nprovider = "kimi"\n'
    )
    config.write_text(text)
    code, _, err = setup("--provider", "kimi", "--key", "-", "--no-check", "--yes", stdin="sk-1\n")
    assert code == 0, err
    assert "claude-*haiku*" in err
    assert config.read_text() == text.replace('api_key_env = "MY_KEY"\n', "").replace(
        "[providers.kimi]\n", '[providers.kimi]\napi_key_file = "keys/kimi"\n'
    ).replace('"groq"\nmodel = "large"\nprice = {input = 1.0}\n', '"kimi"\nmodel = "kimi-k2.6"\n')


def test_a_broken_configuration_is_told_before_any_question(setup, config):
    config.parent.mkdir(parents=True)
    config.write_text("[server]\nwokers = 3\n")
    code, _, err = setup("--provider", "kimi", "--key", "-", stdin="k\n")
    assert code == 1
    assert f"{config}:2:" in err
    assert not (config.parent / "keys").exists()


def test_a_configuration_that_can_t_be_written_leaves_no_key(setup, config):
    config.parent.mkdir(parents=True)
    config.write_text('providers."kimi".max_retries = 1\nproviders."kimi".translation.partial = false\n')
    config.with_name("config.toml.real").mkdir()
    before = tree(config.parent)
    (config.parent / "keys").write_text("no folder")
    code, _, err = setup("--provider", "kimi", "--key", "-", "--no-check", "--yes", stdin="sk-k\n")
    assert code == 1
    assert "the key can't be written" in err
    (config.parent / "keys").unlink()
    assert tree(config.parent) == before


def test_the_key_of_a_plan_goes_to_its_own_address(setup, config):
    code, _, err = setup("--provider", "kimi", "--key", "-", "--no-check", "--yes", stdin="sk-kimi-1\n")
    assert code == 0, err
    assert tomllib.loads(config.read_text())["providers"] == {
        "kimi-code": {
            "base_url": "https://api.kimi.com/coding/v1",
            "dialect": "anthropic",
            "normalise": ["model"],
            "api_key_file": "keys/kimi-code",
        }
    }


def test_a_key_in_the_environment_is_kept_for_a_service_without_it(setup, config):
    code, _, err = setup("--yes", "--no-check", GROQ_API_KEY=KEY)
    assert code == 0, err
    assert tomllib.loads(config.read_text())["models"]["claude-*"]["provider"] == "groq"
    assert (config.parent / "keys/groq").read_text().strip() == KEY


def test_echo_needs_no_key(setup, config):
    code, _, err = setup("--provider", "echo", "--yes")
    assert code == 0, err
    assert tomllib.loads(config.read_text())["providers"] == {"echo": {}}
    assert not (config.parent / "keys").exists()


def test_the_alias_is_installed_if_it_is_wanted(setup, env, config):
    code, out, err = setup("--provider", "echo", "--alias")
    assert code == 0, err
    assert "kimi" in out
    assert "alias kimi=" in (Path(env["HOME"]) / ".bashrc").read_text()
    assert setup("--provider", "echo", "--alias", SHELL="/bin/tcsh")[0] == 2
