"""Nothing that a tool names, or that another process does meanwhile, leads out of the workspace."""

import ctypes
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from worker.agent import workspace as module
from worker.agent.errors import NotFound, ToolError
from worker.agent.workspace import MAX_FILE_BYTES, Workspace

SECRET = "never to be seen"
GIB = 1 << 30


@pytest.fixture
def root(tmp_path):
    """A workspace with files and links, and beside it what must not be touched."""
    (tmp_path / "secret.txt").write_text(SECRET)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.txt").write_text(SECRET)
    root = tmp_path / "workspace"
    (root / "src/deep").mkdir(parents=True)
    (root / "a.txt").write_text("a")
    (root / "src/b.txt").write_text("b")
    return root


@pytest.fixture
def workspace(root):
    return Workspace(str(root))


@pytest.fixture(autouse=True)
def no_descriptor_is_left():
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before


def make_hostile(root: Path) -> None:
    """What a model could have put there by earlier calls."""
    outside = root.parent
    (root / "link_out").symlink_to(outside / "secret.txt")
    (root / "link_up").symlink_to("../secret.txt")
    (root / "folder_out").symlink_to(outside / "outside")
    (root / "chain1").symlink_to("chain2")
    (root / "chain2").symlink_to("src/chain3")
    (root / "src/chain3").symlink_to("../../secret.txt")
    (root / "loop1").symlink_to("loop2")
    (root / "loop2").symlink_to("loop1")
    (root / "bomb").symlink_to("bomb/x" * 500)
    (root / "dangling_out").symlink_to(outside / "nothing.txt")
    (root / "self_root").symlink_to("/proc/self/root")
    (root / "self_cwd").symlink_to("/proc/self/cwd")
    (root / "null").symlink_to("/dev/null")
    (root / "like").symlink_to(f"{root}-not/secret.txt")
    os.mkfifo(root / "fifo")
    (root.parent / "workspace-not").mkdir()
    (root.parent / "workspace-not/secret.txt").write_text(SECRET)


OUT = "leads out of the workspace"
HOSTILE = {
    "absolute": ("/etc/passwd", OUT),
    "absolute, outside of a like name": ("{root}-not/secret.txt", OUT),
    "absolute, and up": ("{root}/../secret.txt", OUT),
    "the filesystem's root": ("/", OUT),
    "up": ("../secret.txt", OUT),
    "down and up": ("src/../../secret.txt", OUT),
    "up from nothing, and back": ("../workspace/a.txt", OUT),
    "far up": ("../" * 1000 + "etc/passwd", OUT),
    "up with dots and slashes": (".//./src/.././/../secret.txt", OUT),
    "proc": ("/proc/self/root/etc/passwd", OUT),
    "proc, back into it": ("/proc/self/root{root}/a.txt", OUT),
    "environment": ("/proc/self/environ", OUT),
    "descriptor": ("/proc/self/fd/0", OUT),
    "device": ("/dev/zero", OUT),
    "terminal": ("/dev/tty", OUT),
    "link out": ("link_out", OUT),
    "link up": ("link_up", OUT),
    "folder's link out": ("folder_out/secret.txt", OUT),
    "chain of links": ("chain1", OUT),
    "link to a like name": ("like", OUT),
    "dangling link out": ("dangling_out", OUT),
    "link to proc": ("self_root/etc/passwd", OUT),
    "link to the current folder": ("self_cwd/a.txt", OUT),
    "link to a device": ("null", OUT),
    "links in a circle": ("loop1", "circle"),
    "a link that grows": ("bomb", "circle"),
    "FIFO": ("fifo", "is a FIFO, not a file"),
    "folder": ("src", "is a folder, not a file"),
    "the root": (".", "is a folder, not a file"),
    "back to the root": ("src/..", "is a folder, not a file"),
    "below a file": ("a.txt/b.txt", "is a file, not a folder"),
    "NUL": ("a.txt\0.png", "NUL"),
    "NUL, outside": ("/etc/passwd\0", "NUL"),
    "empty": ("", "empty"),
    "long name": ("x" * 300, "name too long"),
    "long path": ("x/" * 3000, "too long"),
    "long way": ("src/../" * 580, "circle|is a folder"),
    "half a surrogate pair": ("\ud800.txt", "Unicode"),
    "line breaks": ("/etc/\n\x1b[2J", r"'/etc/\\n\\x1b\[2J'"),
}  # fmt: skip
hostile = pytest.mark.parametrize(("path", "why"), HOSTILE.values(), ids=HOSTILE)


@hostile
def test_hostile_paths_are_not_read(root, workspace, path, why):
    make_hostile(root)
    with pytest.raises(ToolError, match=why):
        workspace.open(path.format(root=root), os.O_RDONLY)


@hostile
def test_hostile_paths_are_not_written(root, workspace, path, why):
    make_hostile(root)
    path = path.replace("/etc/passwd", os.fspath(root.parent / "outside/secret.txt"))  # no file of this machine's
    with pytest.raises(ToolError, match=why):
        workspace.replace(path.format(root=root), b"overwritten")
    assert (root.parent / "secret.txt").read_text() == SECRET
    assert (root.parent / "outside/secret.txt").read_text() == SECRET
    assert sorted(path.name for path in root.parent.iterdir()) == [
        "outside",
        "secret.txt",
        "workspace",
        "workspace-not",
    ]


@pytest.mark.parametrize("path", ["/etc", "..", "folder_out", "self_root", "self_root/etc", "src/../..", "\0", "loop1"])
def test_hostile_folders_are_not_listed(root, workspace, path):
    make_hostile(root)
    with pytest.raises(ToolError), workspace.scandir(path):
        pass
    with pytest.raises(ToolError):
        workspace.stat(path)


def test_hostile_folders_are_not_made(root, workspace):
    make_hostile(root)
    for path in ["folder_out/new/a.txt", "../new/a.txt", "src/../../new/a.txt", "/new/a.txt", "self_root/new/a.txt"]:
        with pytest.raises(ToolError, match=OUT):
            workspace.replace(path, b"")
    assert not list(root.parent.glob("**/new"))


def test_sockets_and_devices_are_refused(root, workspace, monkeypatch):
    monkeypatch.chdir(root)  # a socket's path may be no longer than 108 bytes
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    refused = ["socket"]
    with suppress(PermissionError):  # only root makes devices
        os.mknod(root / "zero", 0o600 | 0o020000, os.makedev(1, 5))
        refused.append("zero")
    for name in refused:
        for refusing in (workspace.read, lambda path: workspace.replace(path, b"x")):
            with pytest.raises(ToolError, match=rf"{name} is a (socket|device), not a file"):
                refusing(name)


def test_a_fifo_does_not_hold_up_and_what_is_no_file_is_not_opened(root, workspace, monkeypatch):
    os.mkfifo(root / "fifo")
    opened = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, *args, **more: opened.append(path) or real(path, *args, **more))
    with pytest.raises(ToolError, match="is a FIFO"):
        workspace.read("fifo")
    assert "fifo" not in opened


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("a.txt", "a"),
        ("./a.txt", "a"),
        ("src//b.txt", "b"),
        ("src/../a.txt", "a"),
        ("src/deep/../../src/b.txt", "b"),
        ("{root}/a.txt", "a"),
        ("/{root}//src/./b.txt", "b"),
        ("{real}/a.txt", "a"),
        ("inside", "b"),
        ("inside_absolute", "b"),
        ("inside_real", "b"),
        ("folder/b.txt", "b"),
        ("folder/../a.txt", "a"),
        ("folder_absolute/../a.txt", "a"),
        ("top/a.txt", "a"),
        ("src/deep/up/a.txt", "a"),
        ("naïve 漢字.txt", "n"),
    ],
)
def test_what_stays_inside_is_reached(tmp_path, root, path, content):
    """Also by a name of the workspace that is itself a link, and by links of all kinds."""
    named = tmp_path / "named"
    named.symlink_to(root)
    (root / "inside").symlink_to("src/b.txt")
    (root / "inside_absolute").symlink_to(named / "src/b.txt")
    (root / "inside_real").symlink_to(root / "src/b.txt")
    (root / "folder").symlink_to("src/deep/..")
    (root / "folder_absolute").symlink_to(root / "src")
    (root / "top").symlink_to(root)
    (root / "src/deep/up").symlink_to("../..")
    (root / "naïve 漢字.txt").write_text("n")
    workspace = Workspace(str(named))
    path = path.format(root=named, real=root)
    assert workspace.read(path) == content.encode()
    assert workspace.stat(path).st_size == 1
    assert workspace.replace(path, b"new") is False
    assert workspace.read(path) == b"new"


def test_a_dangling_link_inside_is_written_through(root, workspace):
    (root / "dangling").symlink_to("src/new/c.txt")
    with pytest.raises(NotFound, match="dangling does not exist"):
        workspace.read("dangling")
    assert workspace.replace("dangling", b"c") is True
    assert (root / "dangling").is_symlink()
    assert (root / "src/new/c.txt").read_text() == "c"


def test_as_many_links_are_followed_as_the_kernel_follows(root, workspace):
    (root / "link0").symlink_to("a.txt")
    for number in range(1, 42):
        (root / f"link{number}").symlink_to(f"link{number - 1}")
    assert workspace.read("link39") == (root / "link39").read_bytes() == b"a"
    with pytest.raises(ToolError, match="circle"):
        workspace.read("link40")
    with pytest.raises(OSError, match="symbolic links"):
        (root / "link40").read_bytes()


def test_a_link_put_in_between_check_and_open_is_not_followed(root, workspace, monkeypatch):
    """At the very last moment, after every look at the name."""
    real = os.open

    def late(path, *args, **more):
        if path == "a.txt":
            (root / "a.txt").unlink()
            (root / "a.txt").symlink_to(root.parent / "secret.txt")
        return real(path, *args, **more)

    monkeypatch.setattr(os, "open", late)
    with pytest.raises(ToolError, match=OUT):
        workspace.read("a.txt")


def test_a_fifo_put_in_between_check_and_open_does_not_hold_up(root, workspace, monkeypatch):
    real = os.open

    def late(path, *args, **more):
        if path == "a.txt":
            (root / "a.txt").unlink()
            os.mkfifo(root / "a.txt")
        return real(path, *args, **more)

    monkeypatch.setattr(os, "open", late)
    with pytest.raises(ToolError, match="is a FIFO"):
        workspace.read("a.txt")


def test_a_folder_that_becomes_a_link_is_not_followed(root, workspace, monkeypatch):
    real = os.open

    def late(path, *args, **more):
        if path == "src":
            (root / "src").rename(root / "was")
            (root / "src").symlink_to(root.parent / "outside")
        return real(path, *args, **more)

    monkeypatch.setattr(os, "open", late)
    with pytest.raises(ToolError, match=OUT):
        workspace.replace("src/secret.txt", b"overwritten")
    assert (root.parent / "outside/secret.txt").read_text() == SECRET


def exchange(first: Path, second: Path) -> None:
    """Swaps two names in one step (RENAME_EXCHANGE)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, bytes(first), -100, bytes(second), 2):
        raise OSError(ctypes.get_errno(), "renameat2")


def test_a_thread_that_swaps_a_file_with_a_link_gains_nothing(root, workspace):
    def swap():
        (root / "evil").symlink_to(root.parent / "secret.txt")
        (root / "evil").rename(root / "a.txt")
        (root / "good").write_text("mine")
        (root / "good").rename(root / "a.txt")

    swap()
    race(root, workspace, swap, "a.txt")


def test_a_thread_that_swaps_a_folder_with_a_link_gains_nothing(root, workspace):
    (root / "src/secret.txt").write_text("mine")
    (root / "evil").symlink_to(root.parent / "outside")
    race(root, workspace, lambda: exchange(root / "src", root / "evil"), "src/secret.txt")


def race(root: Path, workspace: Workspace, swap: Callable[[], None], path: str) -> None:
    """Reads and writes `path` while another thread makes it lead out, and in again; both must have been met."""
    over = threading.Event()

    def keep_swapping():
        while not over.is_set():
            swap()

    thread = threading.Thread(target=keep_swapping)
    thread.start()
    try:
        read = 0
        refused: list[str] = []
        for _ in range(20_000):
            try:
                assert workspace.read(path) == b"mine"
                read += 1
                workspace.replace(path, b"mine")
            except ToolError as error:
                refused.append(str(error))
            if min(read, len(refused)) >= 100:
                break
    finally:
        over.set()
        thread.join()
    assert read
    assert any(OUT in why for why in refused)
    assert all(re.search(f"{OUT}|was changed|a part of the path is a file", why) for why in refused)
    assert (root.parent / "secret.txt").read_text() == SECRET
    assert (root.parent / "outside/secret.txt").read_text() == SECRET
    assert not list(root.glob("**/*.tmp"))


def test_a_file_of_5_gb_takes_no_memory(root, workspace):
    with open(root / "large", "wb") as file:
        file.truncate(5 * GIB)
    tracemalloc.start()
    try:
        with pytest.raises(ToolError, match=r"large has 5,368,709,120 bytes: it is too large"):
            workspace.read("large")
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    finally:
        tracemalloc.stop()


def test_a_file_that_grows_meanwhile_is_still_bounded(root, workspace, monkeypatch):
    (root / "a.txt").write_bytes(b"x" * 100)
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 10)
    monkeypatch.setattr(os, "fstat", lambda descriptor, real=os.fstat: shrunk(real(descriptor)))
    with pytest.raises(ToolError, match="too large"):
        workspace.read("a.txt")


def shrunk(status: os.stat_result) -> os.stat_result:
    return os.stat_result((*status[:6], 0, *status[7:]))


def test_too_much_is_not_written(root, workspace):
    with pytest.raises(ToolError, match="too much"):
        workspace.replace("a.txt", bytes(MAX_FILE_BYTES + 1))
    assert (root / "a.txt").read_text() == "a"


def test_writing_keeps_the_mode_and_leaves_nothing_else(root, workspace):
    (root / "a.txt").chmod(0o751)
    assert workspace.replace("a.txt", b"new") is False
    assert (root / "a.txt").stat().st_mode & 0o7777 == 0o751
    assert workspace.replace("new/folders/c.txt", b"c") is True
    assert (root / "new/folders/c.txt").read_text() == "c"
    assert sorted(path.name for path in root.iterdir()) == ["a.txt", "new", "src"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_writing_keeps_the_owner_and_drops_setuid(root, workspace):
    os.chown(root / "a.txt", 1234, 5678)
    (root / "a.txt").chmod(0o4755)
    workspace.replace("a.txt", b"new")
    status = (root / "a.txt").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (1234, 5678, 0o755)


def test_a_write_that_fails_leaves_the_old_content(root, workspace, monkeypatch):
    def full(*args, **more):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ToolError, match=r"a\.txt: No space left on device"):
        workspace.replace("a.txt", b"new")
    assert (root / "a.txt").read_text() == "a"
    assert sorted(path.name for path in root.iterdir()) == ["a.txt", "src"]


def test_readers_never_see_a_part(root, workspace):
    contents = [letter * 300_000 for letter in (b"x", b"y")]
    workspace.replace("a.txt", contents[0])
    over = threading.Event()

    def write():
        while not over.is_set():
            for content in contents:
                workspace.replace("a.txt", content)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        seen = {(root / "a.txt").read_bytes() for _ in range(300)}
    finally:
        over.set()
        thread.join()
    assert seen <= set(contents)


def test_what_may_not_be_read_or_written_is_said():
    """As a user who isn't root, to whom modes mean something; in a folder that he can get to."""
    with tempfile.TemporaryDirectory() as root:
        for name, mode in {"read-only": 0o444, "secret": 0}.items():
            path = Path(root, name)
            path.touch()
            path.chmod(mode)
        Path(root).chmod(0o777)
        said = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, root], capture_output=True, text=True, check=True
        ).stdout
    assert said.splitlines() == ["read-only: Permission denied.", "secret: Permission denied."]


AS_NOBODY = """
import os, sys
from worker.agent.errors import ToolError
from worker.agent.workspace import Workspace
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
workspace = Workspace(sys.argv[1])
for work in (lambda: workspace.replace("read-only", b"x"), lambda: workspace.read("secret")):
    try:
        work()
        print("done")
    except ToolError as error:
        print(error)
"""


def test_a_folder_is_scanned(root, workspace):
    (root / "link_out").symlink_to("/etc")
    with workspace.scandir(".") as entries:
        found = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    assert found == {"a.txt": False, "src": True, "link_out": False}
    with pytest.raises(ToolError, match=r"a\.txt is a file, not a folder"), workspace.scandir("a.txt"):
        pass
    with pytest.raises(NotFound), workspace.scandir("nothing"):
        pass


def test_a_scan_that_fails_on_the_way_is_told(workspace):
    with pytest.raises(ToolError, match="src: Input/output error"), workspace.scandir("src"):
        raise OSError(5, os.strerror(5))
    with pytest.raises(ToolError, match=r"a\.txt: Input/output error"), workspace.reading("a.txt"):
        raise OSError(5, os.strerror(5))


def test_files_can_be_made_by_opening(root, workspace):
    os.close(workspace.open("src/new.txt", os.O_WRONLY | os.O_CREAT, 0o600))
    assert (root / "src/new.txt").stat().st_mode & 0o777 == 0o600
    (root / "evil").symlink_to(root.parent / "made.txt")
    with pytest.raises(ToolError, match=OUT):
        workspace.open("evil", os.O_WRONLY | os.O_CREAT)
    assert not (root.parent / "made.txt").exists()


def test_a_link_is_not_opened_even_by_o_path(root, workspace):
    (root / "out").symlink_to("/etc/passwd")
    (root / "in").symlink_to("a.txt")
    with pytest.raises(ToolError, match=OUT):
        workspace.open("out", os.O_PATH)
    descriptor = workspace.open("in", os.O_PATH)
    assert os.readlink(f"/proc/self/fd/{descriptor}") == str(root / "a.txt")
    os.close(descriptor)


def test_a_private_file_is_never_open_to_others(root, workspace, monkeypatch):
    (root / "a.txt").chmod(0o600)
    modes = []
    real = os.replace

    def watched(source, *args, **more):
        modes.extend(path.stat().st_mode & 0o777 for path in root.glob(".*.tmp"))
        return real(source, *args, **more)

    monkeypatch.setattr(os, "replace", watched)
    workspace.replace("a.txt", b"new")
    assert modes == [0o600]


def test_a_workspace_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ToolError, match=r"The workspace .*/nothing can't be used: No such file or directory"):
        Workspace(str(tmp_path / "nothing")).read("a.txt")


@pytest.mark.parametrize(
    ("path", "shown"),
    [(".", "."), ("a.txt", "a.txt"), ("./src//b.txt", "src/b.txt"), ("src/../a.txt", "a.txt"), ("{root}", "."),
     ("{root}/src", "src")],
)  # fmt: skip
def test_paths_are_shown_relative_to_the_root(root, workspace, path, shown):
    assert workspace.relative(path.format(root=root)) == shown


@pytest.mark.parametrize("path", ["..", "src/../..", "/etc", "\0", ""])
def test_no_path_out_is_shown(workspace, path):
    with pytest.raises(ToolError):
        workspace.relative(path)


def test_the_whole_filesystem_can_be_a_workspace(root):
    workspace = Workspace("/")
    assert workspace.read(str(root / "a.txt")) == b"a"
    assert workspace.relative(str(root)) == str(root)[1:]
    with pytest.raises(ToolError, match="is a device"):
        workspace.read("/dev/zero")
