"""`shared.paths`: the folders of an instance."""

import os
import stat
from pathlib import Path

import pytest

from shared.errors import StartError
from shared.paths import Paths, prepare, resolve_paths

# As an ordinary user the first, as root in a container often one of the others.
READ_ONLY = next((folder for folder in ("/", "/proc/sys", "/sys") if not os.access(folder, os.W_OK)), None)


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        (tmp_path / variable).mkdir(mode=0o700)
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path


def paths_below(folder: Path) -> Paths:
    return Paths(state=folder / "state", runtime=folder / "run", logs=folder / "logs")


def test_systemd_names_the_folders():
    env = {"STATE_DIRECTORY": "/s/a:/s/b", "RUNTIME_DIRECTORY": "/r", "LOGS_DIRECTORY": "/l"}
    paths = resolve_paths(env)
    assert paths == Paths(state=Path("/s/a"), runtime=Path("/r"), logs=Path("/l"))
    assert paths.database == Path("/s/a/sessions.db")
    assert paths.spool == Path("/s/a/spool")
    assert paths.admin_socket == Path("/r/admin.sock")
    assert paths.instance_lock == Path("/r/supervisor.lock")
    assert paths.log_file == Path("/l/kimi-proxy.log")


def test_each_falls_back_to_the_users_own(user: Path):
    paths = resolve_paths({"STATE_DIRECTORY": "/s", "LOGS_DIRECTORY": ""})
    assert paths.state == Path("/s")
    assert paths.runtime == user / "XDG_RUNTIME_DIR" / "kimi-proxy"
    assert paths.logs.is_relative_to(user / "XDG_STATE_HOME" / "kimi-proxy")
    assert resolve_paths({}).state == user / "XDG_STATE_HOME" / "kimi-proxy"


def test_a_user_without_a_runtime_folder_gets_one_silently(user: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert resolve_paths({}).runtime.is_absolute()


def test_relative_folders_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_paths({"STATE_DIRECTORY": "state"}).state == tmp_path / "state"


def test_two_instances_share_nothing():
    one = resolve_paths({"STATE_DIRECTORY": "/a", "RUNTIME_DIRECTORY": "/b", "LOGS_DIRECTORY": "/c"})
    two = resolve_paths({"STATE_DIRECTORY": "/d", "RUNTIME_DIRECTORY": "/e", "LOGS_DIRECTORY": "/f"})
    for name in ("database", "admin_socket", "instance_lock", "log_file"):
        assert getattr(one, name) != getattr(two, name)


def test_prepare_makes_folders_that_are_closed_to_others(tmp_path: Path):
    paths = paths_below(tmp_path / "deep")
    prepare(paths)
    for folder in (paths.state, paths.runtime, paths.logs):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    prepare(paths)


def test_what_is_missing_above_is_closed_to_others_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    above = tmp_path / "not" / "there"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(above))
    prepare(paths_below(above))
    assert stat.S_IMODE(above.stat().st_mode) == stat.S_IMODE(above.parent.stat().st_mode) == 0o700
    assert resolve_paths({}).runtime.parent == above


def test_prepare_leaves_existing_folders_as_they_are(tmp_path: Path):
    paths = paths_below(tmp_path)
    paths.state.mkdir()
    paths.state.chmod(0o755)
    prepare(paths)
    assert stat.S_IMODE(paths.state.stat().st_mode) == 0o755


def test_a_file_in_the_way(tmp_path: Path):
    (tmp_path / "state").write_text("")
    with pytest.raises(StartError, match=r"state is not a folder: set STATE_DIRECTORY"):
        prepare(paths_below(tmp_path))


def test_a_folder_below_a_file(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=r"can't be made \(Not a directory\): .*STATE_DIRECTORY"):
        prepare(paths_below(tmp_path / "file"))


def test_a_folder_that_the_kernel_does_not_allow():
    with pytest.raises(StartError, match=r"can't be made"):
        prepare(paths_below(Path("/proc/kimi-proxy")))


@pytest.mark.skipif(READ_ONLY is None, reason="nothing is read-only for this user")
def test_a_folder_that_can_not_be_written():
    folder = Path(READ_ONLY or "")
    with pytest.raises(StartError, match=r"can't be written: .*STATE_DIRECTORY"):
        prepare(Paths(state=folder, runtime=folder, logs=folder))


def test_a_socket_path_that_is_too_long_is_refused_before_anything_is_made(tmp_path: Path):
    paths = Paths(state=tmp_path / "s", runtime=tmp_path / ("x" * 107), logs=tmp_path / "l")
    with pytest.raises(StartError, match="set RUNTIME_DIRECTORY to a shorter folder"):
        prepare(paths)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_runtime_folder_of_somebody_else_is_refused(tmp_path: Path):
    paths = paths_below(tmp_path)
    paths.runtime.mkdir()
    os.chown(paths.runtime, 65534, 65534)
    with pytest.raises(StartError, match="belongs to another user: set RUNTIME_DIRECTORY"):
        prepare(paths)
