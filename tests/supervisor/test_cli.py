"""The command line as people meet it: exit codes, what is on stdout, what is on stderr."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from shared import VERSION
from shared.errors import ConfigError, StartError
from supervisor import cli
from supervisor.cli import logs, text

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """An instance of the test's own, that does not run; its folder is also the current one."""
    for name in ("STATE", "RUNTIME", "LOGS"):
        monkeypatch.setenv(f"{name}_DIRECTORY", str(tmp_path / name.lower()))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("KIMI_PROXY_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments, **options):
    """`python -m supervisor …` from the source tree."""
    return subprocess.run(
        [sys.executable, "-m", "supervisor", *arguments], cwd=ROOT, capture_output=True, text=True, **options
    )


def test_the_version_is_data():
    done = run("version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{VERSION}\n", "")


def test_help_and_version_do_not_load_the_service():
    code = "import sys; from supervisor.cli import main; main(['version']); print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"trio", "httpx", "msgspec", "tiktoken", "hypercorn", "structlog"} & set(loaded.split())


@pytest.mark.parametrize("arguments", [[], ["frobnicate"], ["logs", "-n", "many"], ["status", "--yaml"]])
def test_wrong_usage_is_2_and_explained_on_stderr(arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "usage: kimi-proxy" in done.stderr


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (StartError("port 1 is in use"), 1, "kimi-proxy: port 1 is in use\n"),
        (ConfigError("config.toml:3: no"), 1, "kimi-proxy: config.toml:3: no\n"),
        (FileNotFoundError(2, "No such file or directory", "/x"), 1, "kimi-proxy: /x: No such file or directory\n"),
        (OSError("odd"), 1, "kimi-proxy: odd\n"),
        (OSError(28, "No space left on device"), 1, "kimi-proxy: No space left on device\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_an_expected_failure_is_a_sentence_not_a_traceback(monkeypatch, capsys, raised, code, said):
    def fail(_arguments):
        raise raised

    monkeypatch.setattr("supervisor.cli.version.version", fail)
    assert cli.main(["version"]) == code
    assert capsys.readouterr().err == said


def test_a_stdout_that_is_closed_is_no_error(monkeypatch, capsys):
    """As by `>&-`."""
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.main(["version"]) == 0
    sys.stdout.close()
    assert capsys.readouterr() == ("", "")


def test_a_reader_that_leaves_is_no_error(folders):
    """As in `kimi-proxy logs | head -1`."""
    (folders / "logs").mkdir()
    (folders / "logs" / "kimi-proxy.log").write_bytes(b"a line\n" * 100_000)
    with subprocess.Popen(
        [sys.executable, "-m", "supervisor", "logs", "-n", "100000"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline() == b"a line\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize(
    ("arguments", "given", "tokens"),
    [
        (["hello world"], "", 2),
        (["-"], "hello world", 2),
        ([], "hello world", 2),
        ([], "", 0),
        (["<|endoftext|>"], "", 7),
    ],
)
def test_counting_tokens(arguments, given, tokens):
    done = run("count-tokens", *arguments, input=given)
    assert (done.stdout, done.stderr) == (f"{tokens}\n", "")


def test_checking_the_built_in_configuration(folders, capsys):
    assert cli.main(["check-config"]) == 0
    out = capsys.readouterr().out
    assert "the built-in configuration: OK" in out
    assert "echo" in out


def test_checking_a_configuration_file(folders, capsys, monkeypatch):
    (folders / "config.toml").write_text(
        '[server]\nbind = ["127.0.0.1:9000"]\n'
        '[providers.fake]\ndialect = "openai"\nbase_url = "http://127.0.0.1:9200/v1"\napi_key_env = "FAKE_API_KEY"\n'
        '[models."claude-*"]\nprovider = "fake"\nmodel = "text"\nfallbacks = ["fake/slow"]\n'
    )
    monkeypatch.setenv("FAKE_API_KEY", "very-secret-indeed")
    assert cli.main(["check-config"]) == 0
    out = capsys.readouterr().out
    assert f"{folders / 'config.toml'}: OK" in out
    assert "serves 127.0.0.1:9000 with 2 workers" in out
    assert "claude-*" in out
    assert "very-secret-indeed" not in out


def test_checking_a_broken_configuration(folders, capsys):
    broken = folders / "broken.toml"
    broken.write_text("[server]\nbnd = 1\n")
    assert cli.main(["check-config", "--config", str(broken)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"kimi-proxy: {broken}:2:")
    assert "bind" in captured.err


@pytest.mark.parametrize("command", ["reload", "dump-stacks"])
def test_a_command_without_a_service(folders, capsys, command):
    assert cli.main([command]) == 1
    assert capsys.readouterr().err == "kimi-proxy: not running; start it with: kimi-proxy start\n"


def test_the_status_of_a_service_that_does_not_run_is_3(folders, capsys):
    assert cli.main(["status"]) == 3
    assert "not running" in capsys.readouterr().err


def test_stopping_what_does_not_run_is_fine(folders, capsys):
    assert cli.main(["stop"]) == 0
    assert capsys.readouterr().err == "kimi-proxy: not running\n"


def test_logs_that_do_not_exist(folders, capsys):
    assert cli.main(["logs"]) == 1
    assert "journalctl -u kimi-proxy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "lines", "shown"),
    [
        (b"a\nb\nc\n", 2, b"b\nc\n"),
        (b"a\nb\nc", 2, b"b\nc"),
        (b"a\n", 50, b"a\n"),
        (b"", 50, b""),
        (b"a\nb\n", 0, b""),
        (b"\n\n\n", 2, b"\n\n"),
        (b"x" * 200_000 + b"\nlast\n", 1, b"last\n"),
        (b"first\n" + b"x" * 200_000 + b"\n", 1, b"x" * 200_000 + b"\n"),
    ],
)
def test_the_tail_of_a_file(tmp_path, content, lines, shown):
    path = tmp_path / "log"
    path.write_bytes(content)
    with path.open("rb") as file:
        assert logs.tail(file, lines) == shown
        assert file.tell() == len(content)


def test_following_through_growth_truncation_and_rotation(tmp_path, monkeypatch):
    path = tmp_path / "log"
    path.write_bytes(b"old\n")
    looks = threading.Semaphore(0)
    looked = threading.Semaphore(0)

    def wait_for_the_test(_seconds):
        looked.release()
        assert looks.acquire(timeout=10)

    monkeypatch.setattr(logs.time, "sleep", wait_for_the_test)
    seen = []

    def read():
        for data in logs.follow(path, 4):
            seen.append(data)
            if data == b"end\n":
                return

    reader = threading.Thread(target=read)
    reader.start()

    def after_a_look(change):
        assert looked.acquire(timeout=10)
        change()
        looks.release()

    def append(data, to=path):
        with to.open("ab") as file:
            file.write(data)

    after_a_look(lambda: append(b"more\n"))
    after_a_look(lambda: path.write_bytes(b"cut\n"))
    after_a_look(lambda: path.rename(tmp_path / "log.1"))
    after_a_look(lambda: append(b"late\n", tmp_path / "log.1"))
    after_a_look(lambda: path.write_bytes(b"new\n"))
    after_a_look(lambda: append(b"end\n"))
    reader.join(10)
    assert seen == [b"more\n", b"cut\n", b"late\n", b"new\n", b"end\n"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (59.9, "59 s"), (60, "1 min"), (185, "3 min 5 s"), (7800, "2 h 10 min"), (273_600, "3 d 4 h")],
)
def test_durations(seconds, said):
    assert text.duration(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (26_319_258, "25.1 MiB"), (5 << 40, "5120.0 GiB")],
)
def test_sizes(count, said):
    assert text.size(count) == said


def test_tables_align():
    assert text.table(("NAME", "N"), [("a", 5), ("long name", 10)], right=(1,)) == (
        "NAME        N\na           5\nlong name  10"
    )


def test_the_console_script_and_the_module_are_the_same():
    import supervisor.__main__

    assert supervisor.__main__.main is cli.main
