"""The parts of a warden: what it keeps of an output, whom it finds, what passes to its program."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from fakes.programs import new_mark
from hypothesis import given
from hypothesis import strategies as st

from worker.agent.environment import scrubbed
from worker.agent.warden import descent
from worker.agent.warden.tape import Tape


@given(st.lists(st.binary(max_size=40)), st.integers(2, 60))
def test_a_tape_keeps_both_ends(pieces, max_bytes):
    tape = Tape(max_bytes)
    for piece in pieces:
        tape.add(piece)
    head, dropped, tail = tape.read()
    whole = b"".join(pieces)
    assert len(head) + dropped + len(tail) == len(whole)
    assert len(head) + len(tail) <= max_bytes
    assert whole.startswith(head)
    assert whole.endswith(tail)
    assert dropped == 0 or len(head) == len(tail) == max_bytes // 2
    assert tape.read() == (head, dropped, tail)


@pytest.fixture
def family():
    """A shell with a child and a grandchild."""
    mark = new_mark()
    shell = subprocess.Popen(
        ["bash", "-c", f"(sleep {mark} & echo; wait) & echo; wait"], stdout=subprocess.PIPE, start_new_session=True
    )
    assert shell.stdout is not None
    for _ in range(2):
        shell.stdout.readline()
    yield psutil.Process(shell.pid)
    descent.kill([shell.pid])
    shell.wait()
    shell.stdout.close()


@pytest.mark.parametrize("kernel", ["lists children", "does not"])
def test_descendants(family, kernel, monkeypatch):
    if kernel == "does not":
        monkeypatch.setattr(descent.os.path, "exists", lambda _path: False)
    expected = [process.pid for process in family.children(recursive=True)]
    assert len(expected) == 2
    assert sorted(descent.descendants([family.pid])) == sorted(expected)
    assert descent.children(2**22 - 1) == []


def test_kill_takes_the_whole_family(family):
    everybody = [family, *family.children(recursive=True)]
    descent.kill([family.pid])
    _gone, left = psutil.wait_procs(everybody[1:], timeout=10)
    assert left == []


def test_signals_to_the_dead_are_no_error():
    process = subprocess.Popen(["true"])
    process.wait()
    descent.kill([process.pid])


def test_prctl_says_what_is_wrong():
    with pytest.raises(OSError, match="Invalid argument"):
        descent.prctl(9999, 1)


def test_it_needs_the_standard_library_only():
    """It is started without site-packages."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import worker.agent.warden.main; print(sorted(sys.modules))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, root], capture_output=True, text=True, check=True)
    assert "trio" not in done.stdout


def test_the_environment_is_a_list_of_what_may_pass():
    given = {
        "PATH": "/bin",
        "HOME": "/home/me",
        "LC_TIME": "C",
        "KIMI_API_KEY": "plain",
        "LC_KEY": "sk-abcdefghijklmnop",
        "http_proxy": "http://me:pass@proxy",
        "https_proxy": "http://proxy:1",
        "AWS_PROFILE": "x",
    }
    passed = scrubbed(given)
    assert {name: passed[name] for name in passed if name in given} == {
        "PATH": "/bin",
        "HOME": "/home/me",
        "LC_TIME": "C",
        "https_proxy": "http://proxy:1",
    }
    assert passed["PAGER"] == "cat"
    assert "/usr/bin" in scrubbed({})["PATH"].split(os.pathsep)
