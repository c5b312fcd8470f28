"""Ways to hurt a process of the service from inside, without a hook in the product.

A `sitecustomize` module on its PYTHONPATH, which every Python of the service imports, workers through the fork server:

* SIGRTMIN sends the main thread into a busy loop of Python code;
* while the file `die` stands in the folder, every forked child exits with code 3 before it does anything.
"""

import os
from pathlib import Path

from fakes.service import REPOSITORY

SPIN = "spin_for_ever"
_SITECUSTOMIZE = f"""
import os, signal

def {SPIN}(*_):
    while True:
        pass

def die_young():
    if os.path.exists(os.path.join(os.path.dirname(__file__), "die")):
        os._exit(3)

signal.signal(signal.SIGRTMIN, {SPIN})
os.register_at_fork(after_in_child=die_young)
"""


def hooked(folder: Path) -> dict[str, str]:
    """Write the module into `folder`, which is made; the environment for a service that is to import it."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE)
    return {"PYTHONPATH": os.pathsep.join([os.fspath(folder), os.fspath(REPOSITORY)])}
