"""`kimi-proxy reset`."""

import argparse
import os
from contextlib import nullcontext

from shared.config.locate import ENV_NAME
from shared.errors import KimiProxyError
from shared.paths import resolve_paths
from supervisor.cli.client import control_paths
from supervisor.cli.configfile import choose_file
from supervisor.cli.inforce import running_service
from supervisor.cli.interrupt import held
from supervisor.cli.launcher.ask import Prompt
from supervisor.cli.launcher.leftovers import Leftover, find_leftovers
from supervisor.cli.text import say


def reset(arguments: argparse.Namespace) -> int:
    """Remove the configuration, keys and alias, after a question, and with `--history` the records.

    1 if the answer is no, or if something could not be removed; the rest is.
    """
    env = dict(os.environ)
    running = running_service()
    if running is not None and control_paths(env).runtime != resolve_paths(env).runtime:
        running = None  # the system's, which is none of this user's setup
    path = choose_file(arguments.config, env, running.config_source if running is not None else None)
    named = bool(arguments.config or env.get(ENV_NAME))
    found = find_leftovers(path, env, running, named=named, history=arguments.history)
    kept = resolve_paths(env).database
    keeps = f"the history {kept} stays; --history removes it" if kept.exists() and not arguments.history else None
    if not found:
        say("there is nothing to remove" + (f"; {keeps}" if keeps else ""))
        return 0
    prompt = Prompt()
    prompt.say("This is removed:")
    for leftover in found:
        prompt.say(f"  {leftover.text}")
    if keeps:
        prompt.say(f"{keeps[0].upper()}{keeps[1:]}.")
    if not arguments.yes and not prompt.confirm("Remove it?", default=False, flag="--yes"):
        say("nothing was removed")
        return 1
    failed = [leftover for leftover in found if not _removed(leftover)]
    if failed:
        return 1
    say("all of it is removed; kimi-proxy setup begins anew")
    return 0


def _removed(leftover: Leftover) -> bool:
    """Whether it is gone."""
    try:
        with held() if leftover.whole else nullcontext():
            leftover.remove()
    except FileNotFoundError:
        return True
    except (KimiProxyError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        say(f"{leftover.text}: it can't be removed ({reason})", "error")
        return False
    return True
