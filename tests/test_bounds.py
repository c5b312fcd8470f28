"""A test that hangs fails by its name, says where it stood, and the others run on."""

import os
import re
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
HANGING = """
import threading
import time

import pytest
import trio

@pytest.fixture
async def tidy(request):
    try:
        yield
    finally:
        print("tidied up after", request.node.name)

@pytest.mark.bound(0.2)
async def test_in_trio(tidy):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)

@pytest.mark.bound(0.2)
def test_in_a_thread():
    threading.Event().wait()

@pytest.mark.bound(0.2)
async def test_that_blocks_trio(tidy):
    time.sleep(1000)

async def test_with_a_clock_of_its_own(autojump_clock, tidy):
    await trio.sleep(1000)

def test_others():
    pass
"""


def test_what_hangs_is_named(tmp_path):
    (tmp_path / "test_hanging.py").write_text(HANGING)
    (tmp_path / "conftest.py").write_text("import fakes.bounds\n\nfakes.bounds.PATIENCE = 0.5\n")
    (tmp_path / "pytest.ini").write_text(
        f"[pytest]\ntrio_mode = true\npythonpath = {TESTS} {TESTS.parent}\nmarkers = bound(seconds): of it\n"
    )
    plugins = ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "fakes.bounds"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, "-rA"],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    outcomes = re.findall(r"^(FAILED|PASSED) test_hanging\.py::(\w+)(?: - (\w+): not done in time)?", done.stdout, re.M)
    assert sorted(outcomes) == [
        ("FAILED", "test_in_a_thread", "Failed"),
        ("FAILED", "test_in_trio", "TimeoutError"),
        ("FAILED", "test_that_blocks_trio", "TimeoutError"),
        ("PASSED", "test_others", ""),
        ("PASSED", "test_with_a_clock_of_its_own", ""),
    ], done.stdout + done.stderr
    assert "task trio.sleep_forever" in done.stdout
    assert re.search(r"^>\s+threading.Event\(\).wait\(\)$", done.stdout, re.M)
    assert re.search(r"in test_that_blocks_trio\n\W+time\.sleep\(1000\)$", done.stdout, re.M)
    assert re.findall("tidied up after .*", done.stdout) == [
        "tidied up after test_in_trio",
        "tidied up after test_that_blocks_trio",
        "tidied up after test_with_a_clock_of_its_own",
    ]
