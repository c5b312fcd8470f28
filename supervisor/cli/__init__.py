"""The command line: `kimi-proxy COMMAND`.

Data goes to stdout, messages to stderr.  Exit codes: 0 done; 1 failed, with a sentence that says why; 2 wrong usage;
3 `status` of a service that isn't running (as systemctl has it); 130 interrupted.

A command is a function `(arguments) -> exit code` in a module of this package, imported only when it is called, so
that `--help` and `version` answer at once.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence

from shared import VERSION
from shared.errors import KimiProxyError
from supervisor.cli.text import say

INTERRUPTED = 130
BROKEN_PIPE = 141

_EPILOG = "Without a configuration file and without a key in the environment, the built-in model `echo` is served."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `SystemExit` only for `--help` and wrong usage."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.handler is None:
        parser.print_help(sys.stderr)
        return 2
    module, _, name = arguments.handler.partition(":")
    try:
        handler: Callable[[argparse.Namespace], int] = getattr(
            importlib.import_module(f"supervisor.cli.{module}"), name
        )
        code = handler(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left (`| head`); at exit Python would flush, and complain, once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KimiProxyError as error:
        say(str(error))
        return 1
    except OSError as error:
        say(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kimi-proxy",
        description="An LLM streaming gateway whose streams always end, with every token accounted for.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"kimi-proxy {VERSION}")
    parser.set_defaults(handler=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, handler: str, help: str, *, config: bool = False) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
        sub.set_defaults(handler=handler)
        if config:
            sub.add_argument("--config", metavar="PATH", help="the configuration file (default: the first one found)")
        return sub

    command("run", "run:run", "serve in the foreground, logging to stderr", config=True)
    command("start", "start:start", "serve in the background, and return when it is ready", config=True)
    command("stop", "stop:stop", "stop the service, letting its streams finish")
    command("restart", "start:restart", "stop the service if it runs, and start it", config=True)
    command("reload", "admin:reload", "read the configuration again, without ending a stream")
    status = command("status", "status:status", "show the service at a glance")
    status.add_argument("--json", action="store_true", help="as one JSON object")
    logs = command("logs", "logs:logs", "show the log of a service in the background")
    logs.add_argument("-f", "--follow", action="store_true", help="go on showing new lines")
    logs.add_argument("-n", "--lines", metavar="N", type=_count, default=50, help="how many lines (default: 50)")
    command("dump-stacks", "admin:dump_stacks", "write the stacks of every process to the log")
    command("check-config", "config:check_config", "check the configuration and tell what it means", config=True)
    tokens = command("count-tokens", "tokens:count_tokens", "count the tokens (o200k) of a text")
    tokens.add_argument("text", metavar="TEXT", nargs="?", default="-", help="the text; - or nothing: standard input")
    command("version", "version:version", "show the version")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of lines")
    return int(text)
