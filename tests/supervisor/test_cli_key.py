"""`kimi-proxy key`, without a service: what is on stdout, what is in the file, and whose file it stays."""

import io
import json
import os
import re
import stat
import subprocess
import sys
import tomllib
from hashlib import sha256
from pathlib import Path

import pytest

from shared.clientkeys import fingerprint, hashed
from supervisor import cli

ROOT = Path(__file__).parents[2]
KEY = re.compile(r"kp-[A-Za-z0-9_-]{43}\n")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An instance that does not run, whose configuration is `config.toml` in its folder."""
    for name in ("STATE", "RUNTIME", "LOGS"):
        monkeypatch.setenv(f"{name}_DIRECTORY", str(tmp_path / name.lower()))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KIMI_PROXY_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def key(capsys):
    """Run `kimi-proxy key …`: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["key", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def clients(folder: Path) -> dict[str, dict[str, object]]:
    return tomllib.loads((folder / "config.toml").read_text()).get("auth", {}).get("clients", {})


def test_the_key_is_shown_once_and_its_hash_kept(folder, key):
    code, out, err = key("add", "ci", "--models", "claude-*", "kimi/k2", "--requests-per-minute", "30")
    assert code == 0
    assert KEY.fullmatch(out)
    digest = sha256(out.strip().encode()).hexdigest()
    assert clients(folder) == {
        "ci": {"key": f"sha256:{digest}", "models": ["claude-*", "kimi/k2"], "requests_per_minute": 30}
    }
    assert out.strip() not in err
    assert digest[:12] in err
    assert "does not run" in err
    assert stat.S_IMODE((folder / "config.toml").stat().st_mode) == 0o600
    _, another, _ = key("add", "night", "--no-dashboard", "--max-concurrent", "2")
    assert another != out
    assert clients(folder)["night"] == {"key": hashed(another.strip()), "max_concurrent": 2, "dashboard": False}


def test_without_any_file_the_users_own_is_made(folder, key, monkeypatch):
    monkeypatch.delenv("KIMI_PROXY_CONFIG")
    assert key("add", "ci")[0] == 0
    path = folder / "home" / "kimi-proxy" / "config.toml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    code, out, _ = key("revoke", "ci")
    assert (code, out) == (0, "")
    assert path.read_text().strip()  # an empty one would be refused


def test_a_key_from_standard_input_is_not_repeated(folder, key, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("my-own-long-and-secret-key\n"))
    code, out, err = key("add", "ci", "--key", "-")
    assert (code, out) == (0, "")
    assert "my-own" not in err
    assert clients(folder)["ci"]["key"] == hashed("my-own-long-and-secret-key")
    monkeypatch.setattr(sys, "stdin", io.StringIO("my-own-long-and-secret-key\n"))
    code, out, err = key("add", "cd", "--key", "-")
    assert (code, "has the same key as [auth.clients.ci]" in err) == (1, True)
    for bad in ("", "two words", "schön"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{bad}\n"))
        code, _, err = key("add", "bad", "--key", "-")
        assert code == 1
        assert "standard input" in err
        assert bad == "" or bad not in err


def test_mode_comments_and_link_stay(folder, key):
    real = folder / "real" / "kimi.toml"
    real.parent.mkdir()
    text = "# mine\n[server]   # here\nworkers = 3\n"
    real.write_text(text)
    real.chmod(0o640)
    (folder / "config.toml").symlink_to(real)
    assert key("add", "ci")[0] == 0
    assert (folder / "config.toml").is_symlink()
    assert real.read_text().startswith(text)
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert key("revoke", "ci")[0] == 0
    assert real.read_text() == text
    assert sorted(path.name for path in real.parent.iterdir()) == ["kimi.toml"]


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        ("", ["ci"], None),
        ('[auth.clients.ci]\nkey = "k"\n', ["ci"], "there is a client ci already"),
        ("", ["a b"], "not a usable name"),
        ("", ["ci", "--burst-size", "3"], "means nothing by itself"),
        ("[server]\nwokers = 1\n", ["ci"], "config.toml:2: .*did you mean"),
        ("[server\n", ["ci"], "config.toml:1: this is not valid TOML"),
        ("[server]\nbind = '0.0.0.0:80'\n", ["ci"], None),
        ("[auth]\nkeys_env = 'NOT_SET_HERE'\n", ["ci"], None),  # in the service's environment it may be
    ],
)
def test_what_would_be_refused_is_not_written(folder, key, text, arguments, said):
    path = folder / "config.toml"
    path.write_text(text)
    code, out, err = key("add", *arguments)
    if said is None:
        assert code == 0
        return
    assert (code, out, path.read_text()) == (1, "", text)
    assert re.search(said, err), err
    assert "Traceback" not in err


def test_the_list_has_all_and_no_keys(folder, key):
    (folder / "keys").write_text("# file\nthree\n")
    (folder / "config.toml").write_text(
        '[auth]\nkeys = ["one", "two"]\nkeys_file = "keys"\n[auth.clients.ci]\nkey = "four"\nmodels = ["a-*"]\n'
        "requests_per_minute = 5\ndashboard = false\n"
    )
    code, out, _ = key("list", "--json")
    entries = json.loads(out)["keys"]
    assert code == 0
    assert [(one["name"], one["fingerprint"], one["source"]) for one in entries] == [
        ("ci", fingerprint("four"), "auth.clients"),
        (None, fingerprint("one"), "auth.keys"),
        (None, fingerprint("two"), "auth.keys"),
        (None, fingerprint("three"), str(folder / "keys")),
    ]
    assert (entries[0]["models"], entries[0]["requests_per_minute"], entries[0]["burst_size"]) == (["a-*"], 5, None)
    assert entries[0]["dashboard"] is False
    _, out, _ = key("list")
    assert "a-*" in out
    assert not re.search(r"\b(one|two|three|four)\b", out)


def test_revoke(folder, key):
    (folder / "keys").write_text("# file\nthree\nfive\n")
    config = folder / "config.toml"
    config.write_text('[auth]\nkeys = ["one", "two"]\nkeys_file = "keys"\n[auth.clients.ci]\nkey = "four"\n')
    for which in ("ci", fingerprint("one"), fingerprint("three").upper()):
        code, out, err = key("revoke", which)
        assert (code, out) == (0, "")
        assert f"{which} is revoked" in err
    _, out, _ = key("list", "--json")
    assert {one["fingerprint"] for one in json.loads(out)["keys"]} == {fingerprint("two"), fingerprint("five")}
    assert (folder / "keys").read_text() == "# file\nfive\n"
    code, _, err = key("revoke", "ci")
    assert (code, "no client, and no key, is called ci" in err) == (1, True)
    code, _, err = key("revoke", fingerprint("five"))
    assert (code, "take keys_file out" in err) == (1, True)


def test_the_last_key_of_a_public_address_stays(folder, key):
    config = folder / "config.toml"
    config.write_text('[server]\nbind = "0.0.0.0:80"\n[auth.clients.ci]\nkey = "four"\n')
    before = config.read_text()
    code, _, err = key("revoke", "ci")
    assert (code, config.read_text()) == (1, before)
    assert "can be reached from other machines" in err
    assert "nothing was written" in err


def test_the_last_key_on_loopback_is_worth_a_word(folder, key):
    key("add", "ci")
    code, _, err = key("revoke", "ci")
    assert code == 0
    assert "everybody on this machine may ask now" in err


def test_a_key_in_a_variable_is_not_ours_to_remove(folder, key, monkeypatch):
    monkeypatch.setenv("CLIENT_KEYS", "one,two")
    (folder / "config.toml").write_text('[auth]\nkeys_env = "CLIENT_KEYS"\n')
    code, _, err = key("revoke", fingerprint("one"))
    assert (code, "keys_env" in err) == (1, True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everything")
def test_a_file_that_is_not_ours_to_write(folder, key):
    config = folder / "config.toml"
    config.write_text("[server]\n")
    config.chmod(0o400)
    code, out, err = key("add", "ci")
    assert (code, out) == (1, "")
    assert "not yours to write" in err


def test_a_file_that_can_not_be_read_as_text(folder, key):
    (folder / "config.toml").write_bytes(b"[server]\n# \xff\n")
    code, _, err = key("add", "ci")
    assert (code, "UTF-8" in err) == (1, True)


def test_many_at_once_lose_nothing(folder):
    names = [f"c{number}" for number in range(6)]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "supervisor", "key", "add", name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for name in names
    ]
    keys = {}
    for name, process in zip(names, running, strict=True):
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
        keys[name] = out.decode().strip()
    assert {name: client["key"] for name, client in clients(folder).items()} == {
        name: hashed(key) for name, key in keys.items()
    }


def test_wrong_usage_is_2(folder, key):
    for arguments in ([], ["add"], ["add", "ci", "--requests-per-minute", "0"], ["add", "ci", "--key", "secret"]):
        with pytest.raises(SystemExit) as caught:
            key(*arguments)
        assert caught.value.code == 2
