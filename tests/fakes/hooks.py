"""Ways to hurt a process of the service from inside, without a hook in the product.

A `sitecustomize` module on its PYTHONPATH, which every Python of the service imports, workers through the fork server.
It takes signals, which the main thread obeys:

* `SPIN_NOW` goes into a busy loop of Python code;
* `BLOCK_NOW` makes a system call that does not return;
* `EAT_NOW` takes memory until there is none.

And files in the folder:

* while `die` stands there, every forked child exits with code 3 before it does anything;
* `clock` holds seconds by which `time.time` is ahead of the real clock, in all processes at once.
"""

import os
import signal
from pathlib import Path

from fakes.service import REPOSITORY

SPIN, BLOCK = "spin_for_ever", "block_for_ever"
SPIN_NOW, BLOCK_NOW, EAT_NOW = (signal.Signals(signal.SIGRTMIN), signal.SIGRTMIN + 1, signal.SIGRTMIN + 2)
_SITECUSTOMIZE = f"""
import os, signal, time

FOLDER = os.path.dirname(__file__)
true_time = time.time
hoard = []

def {SPIN}(*_):
    while True:
        pass

def {BLOCK}(*_):
    read, write = os.pipe()
    os.read(read, 1)

def eat(*_):
    while True:
        hoard.append(b"x" * (1 << 20))

def die_young():
    if os.path.exists(os.path.join(FOLDER, "die")):
        os._exit(3)

def shifted_time():
    try:
        with open(os.path.join(FOLDER, "clock")) as file:
            return true_time() + float(file.read() or 0)
    except OSError:
        return true_time()

if os.path.exists(os.path.join(FOLDER, "clock")):
    time.time = shifted_time
signal.signal({SPIN_NOW:d}, {SPIN})
signal.signal({BLOCK_NOW:d}, {BLOCK})
signal.signal({EAT_NOW:d}, eat)
os.register_at_fork(after_in_child=die_young)
"""


def hooked(folder: Path) -> dict[str, str]:
    """Write the module into `folder`, which is made; the environment for a service that is to import it."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE)
    return {"PYTHONPATH": os.pathsep.join([os.fspath(folder), os.fspath(REPOSITORY)])}
