"""The whole supervisor as a process of its own, with workers that do as they are told."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
from fakes.fork_server import FAKE_WORKER

from shared.framing import FrameDecoder, frame
from supervisor.control import Done, DumpStacks, Refused, Reload, Status, decode_reply, encode

pytestmark = pytest.mark.integration

MAIN = f"""
import sys
from shared.errors import KimiProxyError
from supervisor.forkserver import ForkServer
from supervisor.main import run
try:
    sys.exit(run(sys.argv[1], fork_server=ForkServer({FAKE_WORKER!r}, {FAKE_WORKER!r})))
except KimiProxyError as error:
    sys.exit(f"kimi-proxy: {{error}}")
"""


def wait_until(condition, seconds=20):
    """Poll: what we wait for happens in other processes."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return found


class Service:
    """A supervisor in a folder of its own, its systemd, and its command line."""

    def __init__(self, folder, **env):
        self.folder = folder
        self.config = folder / "config.toml"
        self.log = folder / "log"
        self.marks = folder / "marks"
        self.marks.mkdir(exist_ok=True)
        self.notified = []
        self._systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with contextlib.suppress(FileNotFoundError):
            (folder / "notify").unlink()
        self._systemd.bind(str(folder / "notify"))
        self._systemd.setblocking(False)
        self.env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "STATE_DIRECTORY": str(folder / "state"),
            "RUNTIME_DIRECTORY": str(folder / "run"),
            "LOGS_DIRECTORY": str(folder / "logs"),
            "NOTIFY_SOCKET": str(folder / "notify"),
            "BEHAVIOUR": "serve",
            "MARKS": str(self.marks),
            **env,
        }
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.write()

    def write(self, behaviour_env="BEHAVIOUR", **server):
        settings = {"workers": 2, "graceful_timeout": 5.0, "retire_timeout": 5.0, "worker_timeout": 20.0, **server}
        lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
        draft = self.folder / "draft.toml"
        draft.write_text(
            f'[server]\nbind = ["127.0.0.1:{self.port}"]\n{lines}'
            f'[providers.behaviour]\nbase_url = "http://127.0.0.1:9"\napi_key_env = "{behaviour_env}"\n'
            f'[providers.marks]\nbase_url = "http://127.0.0.1:9"\napi_key_env = "MARKS"\n'
        )
        draft.replace(self.config)  # never half-written

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", MAIN, str(self.config)], env=self.env, stderr=log, stdout=log
            )
        self.pid = self.process.pid
        return self

    def hear(self):
        """What systemd has been told so far, one dict a message."""
        with contextlib.suppress(BlockingIOError):
            while True:
                lines = self._systemd.recv(65536).decode().split("\n")
                self.notified.append(dict(line.split("=", 1) for line in lines))
        return self.notified

    def count(self, variable):
        return sum(variable in message for message in self.hear())

    def until_ready(self):
        wait_until(lambda: self.count("READY") or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()
        return self

    def control(self, request):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(str(self.folder / "run" / "admin.sock"))
            sock.sendall(frame(encode(request)))
            decoder = FrameDecoder()
            while data := sock.recv(65536):
                for payload in decoder.receive(data):
                    return decode_reply(payload)
        raise AssertionError("no reply")

    def status(self):
        return self.control(Status())

    def until_serving(self, count):
        def serving():
            workers = self.status().workers
            return workers if [worker.state for worker in workers] == ["serving"] * count else None

        return wait_until(serving)

    def ask(self, line):
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as client:
            client.sendall(f"{line}\n".encode())
            return client.makefile().readline().strip()

    def signal(self, signum):
        os.kill(self.pid, signum)

    def ended(self):
        return self.process.wait(timeout=30)

    def family(self):
        return psutil.Process(self.pid).children(recursive=True)

    def close(self):
        if self.process.poll() is None:
            family = self.family()
            self.process.kill()
            self.process.wait()
            psutil.wait_procs(family, timeout=10)
        self._systemd.close()


@pytest.fixture
def make(tmp_path):
    with contextlib.ExitStack() as stack:

        def make(**env):
            service = Service(tmp_path, **env)
            stack.callback(lambda: service.close() if hasattr(service, "process") else service._systemd.close())
            return service

        yield make


@pytest.fixture
def service(make):
    return make().start().until_ready()


def test_keys_are_in_no_environment_but_the_supervisor_s(service):
    service.until_serving(2)
    family = service.family()
    assert len(family) >= 3  # the fork server and two workers
    for process in family:
        environ = process.environ()
        assert "PATH" in environ
        assert not {"BEHAVIOUR", "MARKS"} & set(environ)


def test_a_life(service):
    """Start, status, requests, stop: nothing is left but the records."""
    workers = service.until_serving(2)
    status = service.status()
    assert (status.state, status.pid, status.workers_wanted) == ("running", service.pid, 2)
    assert status.bind == [f"http://127.0.0.1:{service.port}"]
    assert status.config_source == str(service.config)
    assert [(provider.name, provider.has_key) for provider in status.providers] == [
        ("behaviour", True),
        ("marks", True),
    ]
    assert int(service.ask("pid")) in {worker.pid for worker in workers}
    service.ask("open s1")
    wait_until(lambda: service.status().totals.active == 1)
    family = service.family()
    service.signal(signal.SIGTERM)
    assert service.ended() == 0
    psutil.wait_procs(family, timeout=10)
    assert not [process for process in family if process.is_running()]
    assert not (service.folder / "run" / "admin.sock").exists()
    assert (service.folder / "state" / "sessions.db").exists()
    assert service.count("STOPPING") == 1


def test_ready_is_said_once_and_only_when_a_worker_serves(make):
    service = make(BEHAVIOUR="mute").start()
    wait_until(lambda: any("0/2 workers" in message.get("STATUS", "") for message in service.hear()))
    assert service.status().state == "starting"
    assert service.count("READY") == 0
    wait_until(lambda: len([worker for worker in service.status().workers if worker.pid]) == 2)
    service.write(behaviour_env="MARKS")  # anything but "mute" serves
    assert isinstance(service.control(Reload()), Done)
    for worker in service.status().workers:
        os.kill(worker.pid, signal.SIGKILL)
    service.until_ready()
    service.until_serving(2)
    assert service.count("READY") == 1


def test_the_status_line_follows(service):
    service.until_serving(2)
    wait_until(lambda: "2/2 workers, 0 streams, config ok" in service.hear()[-1].get("STATUS", ""))
    service.ask("open s1")
    wait_until(lambda: "2/2 workers, 1 stream, config ok" in service.hear()[-1].get("STATUS", ""))


def test_sighup_with_a_bad_file_then_with_a_good_one(service):
    service.until_serving(2)
    service.config.write_text("[server]\nworkrs = 3\n")
    service.signal(signal.SIGHUP)
    refused = wait_until(lambda: service.status().config_error)
    assert f"{service.config}:2:" in refused
    assert any(refused in message.get("STATUS", "") for message in service.hear())
    assert "event=reload_failed" in service.log.read_text()
    assert isinstance(service.control(Reload()), Refused)
    service.write(workers=3)
    service.signal(signal.SIGHUP)
    service.until_serving(3)
    assert service.status().config_error is None
    wait_until(lambda: service.count("RELOADING") == 3 and service.count("READY") == 4)
    reloading = [message for message in service.notified if "RELOADING" in message]
    assert all(int(message["MONOTONIC_USEC"]) > 0 for message in reloading)


def test_a_storm_of_sighup_coalesces_and_the_last_file_wins(service):
    service.until_serving(2)
    before = {worker.pid for worker in service.status().workers}
    for count in [3, 1] * 100:
        service.write(workers=count)
        service.signal(signal.SIGHUP)
    service.write(workers=2)
    service.signal(signal.SIGHUP)
    wait_until(lambda: service.status().workers_wanted == 2 and service.status().state == "running")
    assert len(service.until_serving(2)) == 2
    assert isinstance(service.control(Reload()), Done)
    assert before & {worker.pid for worker in service.status().workers}


def test_a_new_port_is_served_and_the_old_one_refused(service):
    service.until_serving(2)
    old = service.port
    with socket.create_server(("127.0.0.1", 0)) as probe:
        service.port = probe.getsockname()[1]
    service.write()
    reply = service.control(Reload())
    assert "one by one for bind" in reply.message
    assert int(service.ask("pid"))  # it already listens: the old workers go when the new ones are there
    wait_until(lambda: {worker.generation for worker in service.status().workers} == {2})

    def is_refused():
        try:
            socket.create_connection(("127.0.0.1", old), timeout=5).close()
        except ConnectionRefusedError:
            return True
        return False

    wait_until(is_refused)


def test_a_second_sigterm_shortens_the_wait(make):
    service = make(BEHAVIOUR="stubborn")
    service.write(graceful_timeout=3600.0)
    service.start().until_ready()
    service.signal(signal.SIGTERM)
    wait_until(lambda: service.status().state == "draining")
    assert service.process.poll() is None
    service.signal(signal.SIGINT)
    assert service.ended() == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["service_start", "worker_start", "worker_ready"])
def test_a_stop_at_any_moment_of_the_start(make, moment, signum):
    service = make().start()
    wait_until(lambda: f"event={moment}" in service.log.read_text())
    family = service.family()
    service.signal(signum)
    assert service.ended() == 0
    psutil.wait_procs(family, timeout=10)
    assert not [process for process in family if process.is_running()]
    assert not (service.folder / "run" / "admin.sock").exists()
    assert "Traceback" not in service.log.read_text()


def test_a_stop_during_a_reload(service):
    service.until_serving(2)
    service.config.unlink()
    os.mkfifo(service.config)
    service.signal(signal.SIGHUP)
    wait_until(lambda: service.status().state == "reloading")
    service.signal(signal.SIGTERM)
    assert service.ended() == 0


def test_sigusr1_dumps_everybody(service):
    workers = {worker.pid for worker in service.until_serving(2)}
    service.signal(signal.SIGUSR1)
    wait_until(lambda: {int(mark.name) for mark in service.marks.iterdir()} == workers)
    wait_until(lambda: "==== end" in service.log.read_text())
    log = service.log.read_text()
    assert f"supervisor[{service.pid}]|" in log
    assert "task supervisor.fleet.Fleet._run_worker" in log
    assert service.status().state == "running"


def test_dump_stacks_by_command(service):
    service.until_serving(2)
    reply = service.control(DumpStacks())
    assert isinstance(reply, Done)
    assert "2 workers" in reply.message
    wait_until(lambda: len(list(service.marks.iterdir())) == 2)
    assert "==== stack dump of supervisor" in service.log.read_text()


def test_a_killed_supervisor_takes_its_workers_along_and_the_next_starts_at_once(service):
    service.until_serving(2)
    family = service.family()
    service.process.kill()
    service.process.wait()
    service.notified.clear()
    service.start().until_ready()
    _gone, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    service.until_serving(2)
    assert int(service.ask("pid")) in {worker.pid for worker in service.status().workers}


def test_a_supervisor_that_was_stopped_for_longer_than_the_worker_timeout_kills_nobody(make):
    service = make()
    service.write(worker_timeout=2.5)
    service.start().until_ready()
    before = {worker.pid for worker in service.until_serving(2)}
    service.signal(signal.SIGSTOP)
    time.sleep(4.0)  # the absence itself
    service.signal(signal.SIGCONT)
    uptime = service.status().uptime
    wait_until(lambda: service.status().uptime > uptime + 2.0)
    assert {worker.pid for worker in service.status().workers} == before
    assert "worker_stuck" not in service.log.read_text()


def test_a_crash_loop_from_the_start_ends_the_service_with_a_sentence(make):
    service = make(BEHAVIOUR="die").start()
    assert service.ended() == 1
    log = service.log.read_text()
    assert "kimi-proxy: no worker ever got ready" in log
    assert "Traceback" not in log
    assert service.count("READY") == 0


def test_a_crash_loop_after_a_reload_stands_in_the_status(service):
    service.until_serving(2)
    before = {worker.pid for worker in service.status().workers}
    (service.folder / "key").write_text("die")
    (service.folder / "key").chmod(0o600)
    service.config.write_text(
        f'[server]\nbind = ["127.0.0.1:{service.port}"]\nworkers = 2\nkeep_alive_timeout = 9.0\n'
        f'[providers.behaviour]\nbase_url = "http://127.0.0.1:9"\napi_key_file = "{service.folder}/key"\n'
    )
    service.signal(signal.SIGHUP)
    wait_until(lambda: service.status().crash_loop)
    wait_until(lambda: any("crash loop" in message.get("STATUS", "") for message in service.hear()))
    assert before <= {worker.pid for worker in service.status().workers}
    assert service.process.poll() is None


def test_the_watchdog_is_fed_by_a_healthy_service_only(make):
    service = make(WATCHDOG_USEC="200000").start().until_ready()
    service.until_serving(2)
    fed = service.count("WATCHDOG")
    wait_until(lambda: service.count("WATCHDOG") > fed + 2)
    service.signal(signal.SIGSTOP)
    service.hear()
    fed = service.count("WATCHDOG")
    time.sleep(0.5)
    assert service.count("WATCHDOG") <= fed + 1
    service.signal(signal.SIGCONT)


def test_a_port_in_use_is_a_sentence(make):
    service = make()
    with socket.create_server(("127.0.0.1", service.port)):
        service.start()
        assert service.ended() == 1
    log = service.log.read_text()
    assert f"port {service.port}" in log
    assert "in use" in log
    assert "Traceback" not in log


def test_a_second_instance_is_refused_and_the_first_unharmed(service):
    service.until_serving(2)
    second = subprocess.run(
        [sys.executable, "-c", MAIN, str(service.config)], env=service.env, capture_output=True, text=True, timeout=30
    )
    assert second.returncode == 1
    assert f"already running as pid {service.pid}" in second.stderr
    assert service.status().state == "running"


def test_a_bad_configuration_is_a_sentence(make):
    service = make()
    service.config.write_text("[server]\nworkrs = 2\n")
    service.start()
    assert service.ended() == 1
    assert f"{service.config}:2:" in service.log.read_text()
