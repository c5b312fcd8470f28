"""`kimi-proxy launch`: Claude Code on whatever model the configuration has for it."""

import argparse
import os
import sys

from supervisor.cli.interrupt import Interrupted, held
from supervisor.cli.launcher.claude import find_claude
from supervisor.cli.launcher.clientkey import key_for
from supervisor.cli.launcher.environment import choose_models, claude_environment, told
from supervisor.cli.launcher.overrides import settings_arguments
from supervisor.cli.launcher.process import run_child
from supervisor.cli.launcher.service import ensure_service, failed_streams
from supervisor.cli.text import say


def launch(arguments: argparse.Namespace) -> int:
    """Run Claude Code against the service, which is started for it where none runs; its exit code.

    A signal that ends the launch before Claude Code runs takes back what was done so far.
    """
    env = os.environ
    with held() as kept:
        try:
            with kept.let():
                claude = find_claude(arguments.claude, env)
            with ensure_service(arguments.config, env, kept) as service:
                models = choose_models(service.config, arguments.model)
                key = key_for(service.config, env)
                if service.config is not None and set(service.config.providers) == {"echo"}:
                    say("no provider is configured, so the built-in echo answers; `kimi-proxy setup` chooses one")
                settings = settings_arguments(told(service.url, key, models), env, arguments.claude_arguments)
                command = [*claude.command, *settings, *arguments.claude_arguments]
                sys.stdout.flush()
                failed = failed_streams(env)
                code = run_child(command, claude_environment(env, service.url, key, models), kept)
                if failed_streams(env) > failed:
                    say("not every question was answered; `kimi-proxy check` tells why")
            kept.signals.clear()  # what came after its end has nothing left to end
        except Interrupted:
            pass  # it comes again at the end of `held`, in its usual way
        else:
            return code
    return 130
