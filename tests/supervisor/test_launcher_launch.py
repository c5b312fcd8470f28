"""`kimi-proxy launch`: what runs meanwhile, what is left, and what becomes of signals."""

import os
import signal
import time
from pathlib import Path

import pytest
from fakes.launches import Launches
from fakes.terminal import Terminal


@pytest.fixture
def launches(tmp_path):
    launches = Launches(tmp_path)
    yield launches
    launches.kill_everything()


def test_the_service_lives_as_long_as_claude_code(launches):
    process = launches.start("-p", "two words", "--model", "fake/x", "--claude", "./claude", "--", "--help")
    [told] = launches.told()
    assert told["argv"] == ["-p", "two words", "--help"]
    assert told["env"]["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8000"
    assert launches.run("status").returncode == 0
    launches.go(7)
    assert (launches.end(process)[0], process.returncode) == ("an answer\n", 7)
    assert launches.left() == []
    assert launches.services() == 1


def test_a_service_that_runs_is_left_alone(launches):
    assert launches.run("start").returncode == 0
    launches.go()
    process = launches.start()
    assert (launches.end(process)[0], process.returncode) == ("an answer\n", 0)
    assert launches.run("status").returncode == 0
    refused = launches.start("--config", "other.toml")
    assert "a service runs already" in launches.end(refused)[1]
    assert refused.returncode == 1
    assert launches.run("stop").returncode == 0
    assert launches.services() == 1


def test_launches_share_a_service_and_the_last_one_stops_it(launches):
    processes = [launches.start() for _ in range(3)]
    claudes = launches.told(3)
    assert launches.services() == 1
    for number, claude in enumerate(claudes):
        os.kill(claude["pid"], signal.SIGKILL)
        launches.wait(lambda gone=number: sum(process.poll() is not None for process in processes) == gone + 1)
        assert (launches.run("status").returncode == 0) == (number < 2)
    assert [launches.end(process) and process.returncode for process in processes] == [137] * 3
    assert launches.left() == []


def test_what_a_killed_launch_left_is_stopped_by_the_next_one(launches):
    first = launches.start()
    [claude] = launches.told()
    first.kill()
    os.kill(claude["pid"], signal.SIGKILL)
    launches.end(first)
    assert launches.run("status").returncode == 0
    launches.go()
    second = launches.start()
    launches.end(second)
    assert (second.returncode, launches.services()) == (0, 1)
    assert launches.left() == []


def test_without_claude_code_nothing_is_started(launches):
    process = launches.start(KIMI_PROXY_CLAUDE="/no/such/claude")
    assert "/no/such/claude, which does not exist" in launches.end(process)[1]
    assert process.returncode == 1
    config = launches.folder / "mine.toml"
    config.write_text('[providers.fake]\nbase_url = "http://127.0.0.1:1/v1"\n')
    process = launches.start("--config", str(config))
    assert "no model for Claude Code: run `kimi-proxy setup`" in launches.end(process)[1]
    assert process.returncode == 1
    assert launches.left() == []


def test_a_service_that_gives_up_says_why(launches):
    process = launches.start(FAKE_SERVICE="refuse")
    assert "port 8000 on 127.0.0.1 is in use" in launches.end(process)[1]
    assert process.returncode == 1
    assert launches.left() == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_for_claude_code_reaches_it(launches, signum):
    process = launches.start()
    launches.told()
    process.send_signal(signum)
    launches.end(process)
    # Python, which plays its part, says so in its own way if it is interrupted.
    assert process.returncode == 128 + signum
    assert launches.left() == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_service_starts(launches, signum):
    process = launches.start(FAKE_SERVICE="mute")
    launches.wait(lambda: (launches.folder / "s/born.json").exists())
    process.send_signal(signum)
    launches.end(process)
    assert process.returncode == (130 if signum == signal.SIGINT else -signum)
    assert launches.left() == []


def test_a_signal_while_another_launch_starts_the_service(launches):
    first = launches.start(FAKE_SERVICE="mute")
    launches.wait(lambda: (launches.folder / "s/born.json").exists())
    second = launches.start()
    launches.wait(lambda: f"FLOCK  ADVISORY  WRITE {second.pid} " in Path("/proc/locks").read_text())
    for process in (second, first):
        process.send_signal(signal.SIGINT)
        launches.end(process)
        assert process.returncode == 130
    assert launches.left() == []


def test_signals_at_any_moment_leave_nothing(launches):
    launches.go()
    began = time.monotonic()
    launches.end(launches.start())
    whole = time.monotonic() - began
    for number in range(6):
        process = launches.start()
        time.sleep(whole * number / 6)  # any moment will do
        process.send_signal((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[number % 3])
        launches.end(process)
        assert launches.left() == []


def test_the_keys_of_a_terminal(launches):
    """Ctrl-C goes to Claude Code once; Ctrl-Z stops both, and both go on."""
    with Terminal() as terminal:
        process = terminal.run(launches.command("launch"), launches.env)
        [claude] = launches.told()
        # Nobody is there to give the terminal back to: what stops itself is woken again.
        os.kill(claude["pid"], signal.SIGSTOP)
        terminal.type(b"\x03")
        assert terminal.wait_exit(process) == 130
    assert launches.left() == []


def test_a_window_that_is_closed_ends_all(launches):
    with Terminal() as terminal:
        process = terminal.run(launches.command("launch"), launches.env)
        launches.told()
        terminal.hang_up()
        launches.wait(lambda: process.poll() is not None)
    assert launches.left() == []


def test_the_terminal_is_as_it_was(launches):
    claude = launches.folder / "claude"
    claude.write_text("#!/bin/sh\nstty raw -echo\nkill -9 $$\n")
    with Terminal() as terminal:
        process = terminal.run(launches.command("launch"), launches.env)
        assert terminal.wait_exit(process) == 137
        assert terminal.settings_now() == terminal.settings
