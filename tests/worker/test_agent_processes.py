"""Programs of a run: what they say, what they see, and that nothing of them is left; all of it with real processes."""

import contextlib
import os
import signal
import sys
import textwrap
from functools import partial
from pathlib import Path
from subprocess import PIPE

import psutil
import pytest
import trio
from fakes.programs import STUBBORN, alive, asleep, new_mark, offspring, until
from structlog.testing import capture_logs

from shared.config import Agent
from worker.agent.errors import ToolError
from worker.agent.keeper import Keeper
from worker.agent.processes import Processes
from worker.agent.sandbox import Sandbox
from worker.agent.workspace import Workspace

pytestmark = pytest.mark.integration

others: set[psutil.Process] = set()
"""What other tests keep in this process."""

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def keeper():
    others.clear()
    others.update(offspring())
    keeper = Keeper()
    yield keeper
    await keeper.aclose()
    assert ours() == []


@pytest.fixture(params=["off", "auto"])
async def processes(request, keeper, tmp_path):
    """Of a run, without a sandbox and, where one can be made, in it."""
    return await make(keeper, tmp_path, request.param)


async def make(keeper, folder, sandbox="off", **settings):
    if sandbox != "off" and isinstance(found := await keeper.sandboxes.find(str(folder), network=False), str):
        pytest.skip(found)
    agent = Agent(enabled=True, workspace=str(folder), sandbox=sandbox, **settings)
    return Processes(agent, Workspace(str(folder)), keeper, trace="abc")


async def bash(processes, script, *, timeout=20.0, max_bytes=10_000):
    return await processes.run(["bash", "-c", script], timeout=timeout, max_bytes=max_bytes)


def ours():
    """Everybody whom the keeper has brought; those of a browser of other tests come and go."""
    found = []
    for child in set(psutil.Process().children()) - others:
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [child, *child.children(recursive=True)]
    return found


def zombies():
    found = []
    for process in ours():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() == psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


class TestWhatIsTold:
    async def test_output_comes_in_order_with_the_status(self, processes):
        finished = await bash(processes, "echo one; echo two >&2; echo three; exit 7")
        assert (finished.status, finished.output) == (7, "one\ntwo\nthree\n")
        assert not finished.timed_out

    async def test_it_works_in_the_workspace(self, processes, tmp_path):
        finished = await bash(processes, "pwd; echo text > file")
        assert (finished.status, finished.output) == (0, f"{tmp_path}\n")
        assert (tmp_path / "file").read_text() == "text\n"

    async def test_nobody_answers(self, processes):
        assert (await bash(processes, "read -r line || echo nobody")).output == "nobody\n"

    async def test_a_signal_is_told(self, keeper, tmp_path):
        assert (await bash(await make(keeper, tmp_path), "kill -SEGV $$")).status == -signal.SIGSEGV

    async def test_what_is_not_utf_8(self, processes):
        assert (await bash(processes, r"printf 'a\xffb'")).output == "a\ufffdb"

    async def test_many_at_once(self, processes):
        results = {}

        async def one(number):
            results[number] = (await bash(processes, f"echo {number}")).output

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(one, number)
        assert results == {number: f"{number}\n" for number in range(20)}


class TestBounds:
    async def test_the_middle_is_left_out(self, processes):
        finished = await bash(
            processes, "echo first; head -c 50000000 /dev/zero | tr '\\0' x; echo last", max_bytes=1000
        )
        assert finished.output.startswith("first\nxxx")
        assert finished.output.endswith("xxxlast\n")
        assert "bytes left out" in finished.output
        assert len(finished.output) < 1100

    async def test_a_cut_inside_a_character_leaves_no_half(self, processes):
        finished = await bash(processes, "for i in $(seq 1000); do printf '€'; done", max_bytes=100)
        assert "\ufffd" not in finished.output
        assert finished.output.startswith("€€")

    async def test_endless_output_grows_no_memory(self, keeper, tmp_path):
        processes = await make(keeper, tmp_path)
        mine = psutil.Process()
        before = mine.memory_info().rss
        finished = await bash(processes, "yes | head -c 1000000000; grep VmHWM /proc/$PPID/status", max_bytes=1000)
        peak_kb = int(finished.output.split()[-2])
        assert peak_kb < 64 * 1024
        assert mine.memory_info().rss - before < 16 * 1024 * 1024

    async def test_a_timeout_kills_everything_and_keeps_what_was_said(self, processes):
        mark = new_mark()
        script = f"echo before; setsid sleep {mark} & trap '' TERM; sleep {mark}; echo after; sleep {mark}"
        finished = await bash(processes, script, timeout=0.5)
        assert finished.timed_out
        assert finished.output.startswith("before\n")
        assert alive(mark) == []

    async def test_what_is_left_running_ends_with_the_command(self, processes):
        mark = new_mark()
        finished = await bash(processes, f"(setsid sleep {mark} &); sleep {mark} & echo done")
        assert (finished.status, finished.output) == (0, "done\n")
        assert alive(mark) == []


class TestKilling:
    @pytest.mark.parametrize("script", STUBBORN.values(), ids=STUBBORN.keys())
    async def test_a_cancel_leaves_nothing(self, processes, script):
        mark = new_mark()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bash, processes, script.format(mark=mark))
            await until(lambda: asleep(mark))
            nursery.cancel_scope.cancel()
        assert alive(mark) == []

    @pytest.mark.parametrize("script", STUBBORN.values(), ids=STUBBORN.keys())
    async def test_kill_all_leaves_nothing_and_tells_the_tool(self, processes, script):
        mark = new_mark()
        errors = []

        async def run():
            try:
                await bash(processes, script.format(mark=mark))
            except ToolError as error:
                errors.append(str(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await until(lambda: asleep(mark))
            await processes.kill_all()
            assert alive(mark) == []
        assert errors == ["The program was killed."]

    async def test_nothing_to_kill(self, processes):
        await processes.kill_all()

    async def test_a_cancel_at_any_moment(self, processes):
        mark = new_mark()
        for step in range(25):
            with trio.move_on_after(step * 0.002):
                await bash(processes, f"trap '' TERM; setsid sleep {mark} & (sleep {mark} &); sleep {mark}")
            assert alive(mark) == []

    async def test_a_polite_program_may_clean_up(self, keeper, tmp_path):
        processes = await make(keeper, tmp_path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                bash, processes, "trap 'echo clean > state; exit' TERM; echo on > state; sleep 1000 & wait"
            )
            await until(lambda: (tmp_path / "state").exists() and (tmp_path / "state").read_text() == "on\n")
            nursery.cancel_scope.cancel()
        assert (tmp_path / "state").read_text() == "clean\n"

    async def test_no_zombies_of_what_ended_before(self, keeper, tmp_path):
        processes = await make(keeper, tmp_path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                bash, processes, "for i in 1 2 3; do (setsid true &); done; sleep 0.3; touch over; sleep 1000"
            )
            await until((tmp_path / "over").exists)
            await until(lambda: not zombies())
            nursery.cancel_scope.cancel()

    async def test_what_outlives_its_grace_is_logged(self, keeper, tmp_path):
        processes = await make(keeper, tmp_path, cancel_grace=0.05)
        mark = new_mark()
        with capture_logs() as logs:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bash, processes, f"sleep {mark}")
                await until(lambda: asleep(mark))
                [undertaker] = set(psutil.Process().children()) - others
                undertaker.suspend()
                nursery.cancel_scope.cancel()
            undertaker.resume()
            await until(lambda: not alive(mark))
        assert [(line["event"], line["trace"]) for line in logs] == [("agent_task_timeout_on_cancel", "abc")]


class TestAttacks:
    async def test_a_program_kills_its_warden(self, keeper, tmp_path):
        processes = await make(keeper, tmp_path)
        mark = new_mark()
        with pytest.raises(ToolError, match="killed the process that watched it"):
            await bash(processes, f"setsid sleep {mark} & trap '' TERM; kill -9 $PPID; sleep {mark}")
        assert alive(mark) == []
        assert (await bash(processes, "echo next")).output == "next\n"

    async def test_a_program_stops_its_warden(self, keeper, tmp_path):
        processes = await make(keeper, tmp_path)
        mark = new_mark()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bash, processes, f"kill -STOP $PPID; trap '' TERM; setsid sleep {mark} & sleep {mark}")
            await until(lambda: asleep(mark))
            nursery.cancel_scope.cancel()
        assert alive(mark) == []

    async def test_a_stopped_warden_does_not_outlast_the_timeout(self, keeper, tmp_path, monkeypatch):
        monkeypatch.setattr("worker.agent.keeper.LATE", 0.1)
        processes = await make(keeper, tmp_path)
        mark = new_mark()
        with pytest.raises(ToolError, match="stopped the process that watched it"):
            await bash(processes, f"kill -STOP $PPID; sleep {mark}", timeout=0.1)
        assert alive(mark) == []

    async def test_a_program_kills_the_keeper(self, keeper, tmp_path):
        processes = await make(keeper, tmp_path)
        mark = new_mark()
        grandparent = "$(awk '{print $4}' /proc/$PPID/stat)"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bash, processes, f"kill -9 {grandparent}; setsid sleep {mark} & sleep {mark}")
            await until(lambda: asleep(mark))
            assert (await bash(processes, "echo next")).output == "next\n"
            nursery.cancel_scope.cancel()
        assert alive(mark) == []

    async def test_nothing_outlives_a_killed_worker(self, tmp_path):
        mark = new_mark()
        script = f"trap '' TERM; setsid sleep {mark} & sleep {mark}"
        code = textwrap.dedent(
            f"""
            import sys, trio
            from shared.config import Agent
            from worker.agent.keeper import Keeper
            from worker.agent.processes import Processes
            from worker.agent.workspace import Workspace
            async def main():
                processes = Processes(Agent(sandbox="off"), Workspace({str(tmp_path)!r}), Keeper())
                await processes.run(["bash", "-c", {script!r}], timeout=1000, max_bytes=10)
            trio.run(main)
            """
        )
        worker = await trio.lowlevel.open_process([sys.executable, "-c", code], cwd=ROOT)
        keepers = await until(lambda: psutil.Process(worker.pid).children() if alive(mark) else [])
        await until(lambda: asleep(mark))
        worker.kill()
        await worker.wait()
        await until(lambda: not alive(mark))
        await until(lambda: not any(process.is_running() for process in keepers))


class TestStarting:
    async def test_no_such_program(self, keeper, tmp_path):
        with pytest.raises(ToolError, match="no-such-program: No such file"):
            await (await make(keeper, tmp_path)).run(["no-such-program"], timeout=5, max_bytes=100)

    async def test_the_workspace_is_gone(self, keeper, tmp_path):
        with pytest.raises(ToolError, match="gone: No such file"):
            await bash(await make(keeper, tmp_path / "gone"), "true")

    @pytest.mark.parametrize(
        ("argument", "said"), [("a\0b", "NUL"), ("x" * 200_000, "too long"), ("\ud800", "surrogates")]
    )
    async def test_what_no_program_can_be_told(self, processes, argument, said):
        with pytest.raises(ToolError, match=said):
            await processes.run(["echo", argument], timeout=5, max_bytes=100)


class TestWhatItSees:
    async def test_no_keys(self, processes, monkeypatch):
        for name in ("KIMI_API_KEY", "PRIVATE_THING", "LC_SECRET"):
            monkeypatch.setenv(name, "sk-" + "a1b2c3d4" * 4)
        monkeypatch.setenv("HTTPS_PROXY", "http://user:password@proxy:3128")
        monkeypatch.setenv("PASSES_NOT", "plain-words")
        monkeypatch.setenv("LC_ALL", "C")
        script = "env; tr '\\0' '\\n' < /proc/$PPID/environ; for i in /proc/[0-9]*/environ; do [ $i -nt / ]; done"
        output = (await bash(processes, script)).output
        for word in ("sk-", "password", "plain-words", "API_KEY"):
            assert word not in output
        assert "LC_ALL=C" in output
        assert "PATH=" in output

    async def test_nothing_of_a_process_that_hides_its_memory(self, processes, monkeypatch):
        hides = "import shared.privacy as p; p.hide_memory(); print(flush=True); input()"
        env = {**os.environ, "PYTHONPATH": str(ROOT), "KIMI_API_KEY": "sk-hidden"}
        async with trio.open_nursery() as nursery:
            process = await nursery.start(
                partial(trio.run_process, [sys.executable, "-c", hides], env=env, stdin=PIPE, stdout=PIPE)
            )
            await process.stdout.receive_some(1)
            output = (
                await bash(processes, f"cat /proc/{process.pid}/environ; head -c1 /proc/{process.pid}/mem")
            ).output
            await process.stdin.aclose()
            nursery.cancel_scope.cancel()
        assert "sk-hidden" not in output
        assert output.count("/proc/") == 2, "both are refused"

    async def test_it_begins_beneath_the_workspace(self, processes, tmp_path):
        (tmp_path / "a/b").mkdir(parents=True)
        finished = await processes.run(["pwd"], timeout=20, max_bytes=1000, beneath=("a", "b"))
        assert finished.output == f"{tmp_path}/a/b\n"

    async def test_it_does_not_begin_behind_a_link(self, keeper, tmp_path):
        (tmp_path / "link").symlink_to("/etc")
        processes = await make(keeper, tmp_path)
        with pytest.raises(ToolError, match="link: Not a directory"):
            await processes.run(["pwd"], timeout=20, max_bytes=1000, beneath=("link",))

    async def test_no_descriptors_of_the_service(self, processes, tmp_path):
        with (tmp_path / "file").open("w") as file:
            os.set_inheritable(file.fileno(), True)
            output = (await bash(processes, "ls /proc/self/fd")).output
        assert output.split() == ["0", "1", "2", "3"]  # 3 is what ls reads

    async def test_signals_are_as_usual(self, processes):
        output = (await bash(processes, "grep -E 'Sig(Blk|Ign)' /proc/self/status")).output
        assert [int(line.split()[1], 16) for line in output.splitlines()] == [0, 0]

    async def test_nobody_becomes_somebody_else(self, processes):
        assert "NoNewPrivs:\t1" in (await bash(processes, "cat /proc/self/status")).output


class TestSandbox:
    @pytest.fixture
    async def sandboxed(self, keeper, tmp_path):
        (tmp_path / "workspace").mkdir()
        return await make(keeper, tmp_path / "workspace", "required")

    async def test_the_system_is_read_only(self, sandboxed):
        finished = await bash(sandboxed, "touch /usr/file; touch /etc/file; touch /file; touch here && echo here")
        assert finished.sandboxed
        assert finished.output.count("Read-only file system") == 2
        assert finished.output.endswith("here\n")

    async def test_nothing_else_is_there(self, sandboxed, tmp_path):
        (tmp_path / "secret").write_text("secret")
        output = (await bash(sandboxed, f"cat {tmp_path}/secret; ls /home /root /run /var/lib /sys")).output
        assert output.count("No such file") == 6

    async def test_no_network(self, sandboxed):
        listener = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener[0]:
            port = listener[0].socket.getsockname()[1]
            output = (await bash(sandboxed, f"(exec 3<>/dev/tcp/127.0.0.1/{port}) && echo reached")).output
        assert "reached" not in output

    async def test_the_network_if_allowed(self, keeper, tmp_path):
        processes = await make(keeper, tmp_path, "required", allow_network=True)
        listener = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener[0]:
            port = listener[0].socket.getsockname()[1]
            output = (await bash(processes, f"(exec 3<>/dev/tcp/127.0.0.1/{port}) && echo reached")).output
        assert output == "reached\n"

    async def test_other_processes_are_not_seen(self, sandboxed):
        output = (await bash(sandboxed, "ls /proc | grep -c '^[0-9]'")).output
        assert int(output) < 10

    async def test_no_capabilities(self, sandboxed):
        assert "CapEff:\t0000000000000000" in (await bash(sandboxed, "cat /proc/self/status")).output

    async def test_key_files_are_out_of_reach(self, keeper, tmp_path, monkeypatch):
        key = tmp_path / "key"
        key.write_text("secret")
        processes = await make(keeper, tmp_path, "required")
        monkeypatch.setattr(keeper.sandboxes, "_secrets", (str(key), str(tmp_path / "not there")))
        assert (await bash(processes, "cat key; echo x > key")).output.count("Permission denied") == 2
        assert key.read_text() == "secret"

    async def test_required_and_missing(self, keeper, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        processes = Processes(Agent(sandbox="required"), Workspace(str(tmp_path)), keeper)
        with pytest.raises(ToolError, match=r"only run in a sandbox.*bwrap.* is not installed"):
            await processes.run(["/bin/true"], timeout=5, max_bytes=100)

    async def test_a_program_of_our_own_needs_none(self, keeper, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        processes = Processes(Agent(sandbox="required"), Workspace(str(tmp_path)), keeper)
        finished = await processes.run(["/bin/true"], timeout=5, max_bytes=100, trusted=True)
        assert (finished.status, finished.sandboxed) == (0, False)

    async def test_auto_goes_without_one_that_does_not_work(self, keeper, tmp_path, monkeypatch):
        (tmp_path / "bwrap").write_text("#!/bin/sh\necho tried >> tried; echo no namespaces >&2; exit 1\n")
        (tmp_path / "bwrap").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        processes = Processes(Agent(sandbox="auto"), Workspace(str(tmp_path)), keeper)
        with capture_logs() as logs:
            for _ in range(2):
                finished = await bash(processes, "echo on")
                assert (finished.output, finished.sandboxed) == ("on\n", False)
        assert (tmp_path / "tried").read_text() == "tried\n"
        assert [(line["event"], line["reason"]) for line in logs] == [
            ("sandbox_unavailable", "bubblewrap does not work here (no namespaces)")
        ]


def test_a_sandbox_is_a_command_line():
    sandbox = Sandbox(bwrap="/usr/bin/bwrap", workspace="/srv/work", network=False, hidden=("/etc/ssh",))
    line = sandbox.wrap(["bash", "-c", "true"], ["/etc/key"])
    assert line[0] == "/usr/bin/bwrap"
    assert line[-4:] == ("--", "bash", "-c", "true")
    options = " ".join(line)
    for part in ("--unshare-all", "--die-with-parent", "--new-session", "--cap-drop ALL", "--bind /srv/work /srv/work"):
        assert part in options
    assert "--share-net" not in options
    assert options.index("--ro-bind-try /etc /etc") < options.index("--tmpfs /etc/ssh")
    assert options.index("--bind /srv/work") < options.index("--ro-bind /dev/null /etc/key")
