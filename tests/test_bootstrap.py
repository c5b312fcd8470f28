"""The first start of a checkout, on a small checkout that needs no network: the scripts are the real ones, the
project is a stand-in with a build backend of its own and an empty lock."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NO_PACKAGE = "no-such-package==1.0 \\\n    --hash=sha256:" + "0" * 64 + "\n"

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = """
    import base64, hashlib, pathlib, zipfile

    def build_editable(folder, config_settings=None, metadata_directory=None):
        files = {
            "stand_in.pth": str(pathlib.Path.cwd()) + "\\n",
            "stand_in-1.dist-info/METADATA": "Metadata-Version: 2.1\\nName: stand-in\\nVersion: 1\\n",
            "stand_in-1.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        }
        record = ""
        for name, text in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{name},sha256={digest},{len(text)}\\n"
        files["stand_in-1.dist-info/RECORD"] = record + "stand_in-1.dist-info/RECORD,,\\n"
        with zipfile.ZipFile(pathlib.Path(folder) / "stand_in-1-py3-none-any.whl", "w") as wheel:
            for name, text in files.items():
                wheel.writestr(name, text)
        return "stand_in-1-py3-none-any.whl"
"""
SERVICE = """
    import os, sys
    print(os.path.dirname(os.path.dirname(__file__)), os.getcwd(), sys.argv[1:])
"""


def run(checkout: Path, *arguments: str, script: Path | None = None, cwd: Path | None = None, **variables: str):
    """`bin/kimi-proxy` with an index that has nothing."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "KIMI_PROXY_", "PYTHON"))}
    return subprocess.run(
        [script or checkout / "bin/kimi-proxy", *arguments],
        cwd=cwd or checkout,
        env={**env, "PIP_NO_INDEX": "1", "KIMI_PROXY_PYTHON": sys.executable, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def make_checkout(folder: Path) -> Path:
    (folder / "bin/lock").mkdir(parents=True)
    for name in ("kimi-proxy", "bootstrap.sh"):
        shutil.copy(ROOT / "bin" / name, folder / "bin" / name)
    (folder / "bin/lock/requirements.txt").write_text("")
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "backend.py").write_text(textwrap.dedent(BACKEND))
    (folder / "supervisor").mkdir()
    (folder / "supervisor/__init__.py").touch()
    (folder / "supervisor/__main__.py").write_text(textwrap.dedent(SERVICE))
    return folder


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A checkout after its first start, with a space in its path."""
    checkout = make_checkout(tmp_path_factory.mktemp("checkouts") / "the first")
    first = run(checkout, "version")
    assert first.returncode == 0, first.stderr
    return checkout, first


@pytest.fixture
def checkout(ready, tmp_path):
    """A copy of it; as it lies elsewhere, it counts as moved."""
    return Path(shutil.copytree(ready[0], tmp_path / "moved", symlinks=True))


def stamp(checkout: Path) -> Path:
    return checkout / ".venv/.kimi-proxy-stamp"


def test_the_first_start_sets_up_and_then_runs_the_command(ready):
    checkout, first = ready
    assert first.stdout == f"{checkout} {checkout} ['version']\n"
    assert first.stderr.startswith(f"kimi-proxy: first start: setting up {checkout}/.venv with Python 3.")
    assert first.stderr.endswith("kimi-proxy: ready\n")
    assert (checkout / ".venv/.gitignore").read_text() == "*\n"


def test_the_second_start_sets_nothing_up(ready):
    checkout, _ = ready
    log = checkout / ".venv/.kimi-proxy-setup.log"
    before = log.stat().st_mtime_ns
    again = run(checkout, "a b", "*")
    assert (again.stdout, again.stderr) == (f"{checkout} {checkout} ['a b', '*']\n", "")
    assert log.stat().st_mtime_ns == before


def test_it_can_be_called_through_a_link_from_anywhere(ready, tmp_path):
    checkout, _ = ready
    link = tmp_path / "kimi-proxy"
    link.symlink_to(checkout / "bin/kimi-proxy")
    # A folder in which another program's modules of the same names lie about.
    (tmp_path / "supervisor").mkdir()
    (tmp_path / "supervisor/__main__.py").write_text("print('the wrong one')")
    assert run(checkout, script=link, cwd=tmp_path).stdout == f"{checkout} {tmp_path} []\n"


def test_a_moved_checkout_is_installed_again_without_a_network(checkout):
    moved = run(checkout)
    assert moved.stdout == f"{checkout} {checkout} []\n"
    assert "first start" not in moved.stderr
    assert run(checkout).stderr == ""


def test_an_interrupted_set_up_is_done_again(checkout):
    stamp(checkout).unlink()
    shutil.rmtree(next((checkout / ".venv/lib").glob("python*/site-packages")) / "pip")
    repaired = run(checkout)
    assert repaired.stdout == f"{checkout} {checkout} []\n"
    assert "first start" in repaired.stderr


def test_a_lock_that_cannot_be_had_leaves_the_environment_as_it_was(checkout):
    assert run(checkout).returncode == 0
    lock = checkout / "bin/lock/requirements.txt"
    lock.write_text(NO_PACKAGE)
    failed = run(checkout)
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert "a package could not be installed (is there a network?)" in failed.stderr
    assert "    ERROR: No matching distribution found for no-such-package==1.0" in failed.stderr
    lock.write_text("")
    assert run(checkout).stderr == ""


def test_a_failed_first_start_is_not_taken_for_a_good_one(tmp_path):
    checkout = make_checkout(tmp_path / "checkout")
    (checkout / "bin/lock/requirements.txt").write_text(NO_PACKAGE)
    failed = run(checkout)
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert "No matching distribution found" in failed.stderr
    assert not stamp(checkout).exists()


def test_two_first_starts_at_once_set_up_once(checkout):
    command = [checkout / "bin/kimi-proxy"]
    env = {**os.environ, "PIP_NO_INDEX": "1", "KIMI_PROXY_PYTHON": sys.executable}
    both = [
        subprocess.Popen(command, cwd=checkout, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate() for process in both]
    assert [out for out, _ in said] == [f"{checkout} {checkout} []\n"] * 2
    assert sum("kimi-proxy: ready" in err for _, err in said) == 1


def test_a_folder_of_somebody_elses_is_not_touched(ready, tmp_path):
    checkout, _ = ready
    (tmp_path / "precious").write_text("data")
    refused = run(checkout, KIMI_PROXY_VENV=str(tmp_path))
    assert refused.returncode == 1
    assert "exists and was not made by kimi-proxy; remove it, or set KIMI_PROXY_VENV" in refused.stderr
    assert os.listdir(tmp_path) == ["precious"]


def test_a_folder_that_cannot_be_made_is_named(ready, tmp_path):
    checkout, _ = ready
    (tmp_path / "file").touch()
    refused = run(checkout, KIMI_PROXY_VENV=str(tmp_path / "file/venv"))
    assert refused.returncode == 1
    assert "can't be written; set KIMI_PROXY_VENV to a folder that can" in refused.stderr


@pytest.mark.parametrize(
    ("python", "said"),
    [
        ("exit 1", "Python 3.11 or newer is needed; on Debian and Ubuntu: apt install python3 python3-venv"),
        ('case $2 in *venv*) exit 1 ;; esac', "can't make virtual environments; on Debian and Ubuntu: apt install"),
    ],
    ids=["too old", "without venv"],
)  # fmt: skip
def test_a_python_that_will_not_do(tmp_path, python, said):
    checkout = make_checkout(tmp_path / "checkout")
    (tmp_path / "python").write_text(f"#!/bin/sh\n{python}\n")
    (tmp_path / "python").chmod(0o755)
    refused = run(checkout, KIMI_PROXY_PYTHON=str(tmp_path / "python"))
    assert refused.returncode == 1
    assert said in refused.stderr
