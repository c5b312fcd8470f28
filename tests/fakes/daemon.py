"""A stand-in for `python -m supervisor run`, for tests of `start`, `stop` and `restart`.

It takes the instance lock, answers `Status`, says READY=1, and ends at SIGTERM.  `FAKE_SERVICE` makes it misbehave:
`refuse` (a sentence and exit code 1), `crash` (a traceback), `killed`, `mute` (never ready), `stubborn` (ends at the
second SIGTERM only).
"""

import json
import os
import signal
import sys

from fakes.admin import AdminServer, status_reply

from shared.paths import resolve_paths
from supervisor.control import NO_REQUEST, Refused, Reply, Request, Upgrade
from supervisor.instance import InstanceLock
from supervisor.sdnotify import Notifier


def main() -> int:
    behaviour = os.environ.get("FAKE_SERVICE")
    print("service_start", file=sys.stderr)
    match behaviour:
        case "refuse":
            print("kimi-proxy: port 8000 on 127.0.0.1 is in use", file=sys.stderr)
            print("another line", file=sys.stderr)
            return 1
        case "crash":
            raise RuntimeError("a bug")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
    # Blocked, not handled, so that none is lost between here and the wait.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    paths = resolve_paths(os.environ)
    manager = os.environ.get("NOTIFY_SOCKET")
    notifier = Notifier()
    config = sys.argv[sys.argv.index("--config") + 1] if "--config" in sys.argv else None
    born = {
        "argv": sys.argv[1:],
        "session": os.getsid(0),
        "pid": os.getpid(),
        "notify_socket": manager,
        "passed_on": [name for name in os.environ if name.startswith(("LISTEN_", "WATCHDOG_"))],
        "stdin": os.readlink("/proc/self/fd/0"),
    }
    (paths.state / "born.json").write_text(json.dumps(born))
    reply = status_reply(pid=os.getpid(), config_source=config)

    def answer(request: Request) -> Reply:
        """As one that is older than the hand-over."""
        return Refused(f"{NO_REQUEST}: Upgrade") if isinstance(request, Upgrade) else reply

    with InstanceLock.acquire(paths.instance_lock), AdminServer(paths.admin_socket, answer):
        notifier.status("starting 2 workers")
        if behaviour != "mute":
            notifier.ready("2 workers")
        signal.sigwait({signal.SIGTERM})
        if behaviour == "stubborn":
            (paths.state / "asked_once").touch()  # two signals that both wait would be one
            signal.sigwait({signal.SIGTERM})
        paths.admin_socket.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
