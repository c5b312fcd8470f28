"""The grammar of the command line: commands, their options, and the function behind each."""

import argparse
from collections.abc import Sequence

from shared import VERSION
from supervisor.cli.launcher.commandline import split

_EPILOG = "Without a configuration file and without a key in the environment, the built-in model `echo` is served."
# The filters of the history (`shared.history.parameters`) that take any number of values.
_PROPERTIES = {
    "provider": "NAME",
    "model": "NAME",
    "upstream-model": "NAME",
    "session": "NAME",
    "client": "FINGERPRINT",
    "dialect": "DIALECT",
    "status": "STATUS",
    "error-type": "TYPE",
}


def make_parser() -> argparse.ArgumentParser:
    """`handler` of what is parsed is `module:function` in this package; None where no command was given."""
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

    _setup(command("setup", "setup:setup", "choose a provider, check its key and write the configuration", config=True))
    set_key = command("set-key", "setkey:set_key", "keep the key of a provider, in a file or the keyring", config=True)
    set_key.add_argument("provider", metavar="PROVIDER", help="its name in the configuration, or one of `setup`'s list")
    set_key.add_argument("key", metavar="KEY|-", nargs="?", help="the key; -: from standard input (default: asked for)")
    set_key.add_argument("--keyring", action="store_true", help="in the keyring of the desktop, by secret-tool")
    _provider(command("provider", "provider:provider", "show who answers Claude Code, or change that", config=True))
    models = command("models", "models:models", "list the models that can be asked for", config=True)
    help = "ask a provider for its own list (default: the one that answers Claude Code)"
    models.add_argument("--upstream", metavar="NAME", nargs="?", const="", help=help)
    _json(models)
    _json(command("check", "check:check", "look at every layer from the key to an answer, with fixes", config=True))
    reset = command("reset", "reset:reset", "remove configuration, keys and alias, after a question", config=True)
    reset.add_argument("--history", action="store_true", help="the database and the log, too")
    reset.add_argument("--yes", action="store_true", help="don't ask")
    command("run", "run:run", "serve in the foreground, logging to stderr", config=True)
    command("start", "start:start", "serve in the background, and return when it is ready", config=True)
    command("stop", "stop:stop", "stop the service, letting its streams finish")
    command(
        "restart", "start:restart", "have a new process take over, without cutting a stream; or start it", config=True
    )
    command("reload", "admin:reload", "read the configuration again, without ending a stream")
    _json(command("status", "status:status", "show the service at a glance"))
    top = command("top", "top:top", "watch the service live: streams, workers, providers")
    top.add_argument("--once", action="store_true", help="one look, and no more (so without a terminal)")
    _sessions(command("sessions", "sessions:sessions", "show or cancel live streams, of all workers"))
    stats = command("stats", "stats:stats", "sum up the history: streams, tokens, cost, times to the first byte")
    stats.add_argument(
        "--by",
        default="day",
        help="hour, day (the default), month, time, provider, model, upstream_model, session, client, dialect, status "
        "or error_type",
    )
    stats.add_argument("--bucket", metavar="WIDTH", help="of --by time: 30s, 5m, 1h (default: at most 120 of them)")
    _json(stats)
    _filters(stats)
    export = command("export", "export:export", "write the history to stdout or a file")
    export.add_argument("--format", metavar="csv|json", help="default: csv")
    export.add_argument("-o", "--output", metavar="FILE", help="a file that appears, or is replaced, when it is whole")
    _filters(export)
    backup = command("backup", "backup:backup", "copy the database while the service runs")
    backup.add_argument("file", metavar="FILE", help="the copy; it appears when it is whole and has been checked")
    backup.add_argument("--force", action="store_true", help="replace FILE if it exists")
    logs = command("logs", "logs:logs", "show the log of a service in the background")
    logs.add_argument("-f", "--follow", action="store_true", help="go on showing new lines")
    logs.add_argument("-n", "--lines", metavar="N", type=_count, default=50, help="how many lines (default: 50)")
    command("dump-stacks", "admin:dump_stacks", "write the stacks of every process to the log")
    command("check-config", "config:check_config", "check the configuration and tell what it means", config=True)
    _install(command("install-service", "install:install_service", "write units for systemd, and say what comes next"))
    _key(command("key", "key:list_keys", "make, show and revoke the keys of clients"))
    tokens = command("count-tokens", "tokens:count_tokens", "count the tokens (o200k) of a text")
    tokens.add_argument("text", metavar="TEXT", nargs="?", default="-", help="the text; - or nothing: standard input")
    _launch(
        command(
            "launch", "launch:launch", "run Claude Code against the service, which is started if need be", config=True
        )
    )
    _alias(command("alias", "alias:alias", "make `kimi` a short name of `kimi-proxy launch` in your shell"))
    command("version", "version:version", "show the version")
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """What `argv` asks for; `claude_arguments` is what `launch` has to pass on, which argparse would want to know."""
    if argv[:1] != ["launch"]:
        return parser.parse_args(argv)
    ours, theirs = split(argv[1:])
    arguments = parser.parse_args(["launch", *ours])
    arguments.claude_arguments = theirs
    return arguments


def _launch(launch: argparse.ArgumentParser) -> None:
    launch.usage = "kimi-proxy launch [--model MODEL] [--claude PATH] [--config PATH] [ARGUMENT ...] [-- ARGUMENT ...]"
    launch.epilog = "All other arguments, and everything behind a `--`, go to Claude Code as they are."
    launch.add_argument("--model", metavar="MODEL", help="what to ask for: a model's name, provider/model, opus, haiku")
    launch.add_argument("--claude", metavar="PATH", help="Claude Code itself (default: $KIMI_PROXY_CLAUDE, or found)")


def _alias(alias: argparse.ArgumentParser) -> None:
    alias.add_argument("--shell", choices=["bash", "zsh", "fish"], help="default: that of $SHELL")
    action = alias.add_mutually_exclusive_group()
    action.add_argument("--install", dest="action", action="store_const", const="install", help="without asking")
    action.add_argument("--remove", dest="action", action="store_const", const="remove", help="take it out again")
    action.add_argument("--print", dest="action", action="store_const", const="print", help="show it, write nothing")


def _setup(setup: argparse.ArgumentParser) -> None:
    setup.add_argument("--provider", metavar="NAME", help="who answers; a name of your own goes with --base-url")
    setup.add_argument("--key", metavar="KEY|-", help="its key; -: from standard input, unseen by ps and history")
    setup.add_argument("--model", metavar="NAME", help="what the provider calls the model (default: one that fits)")
    setup.add_argument("--base-url", metavar="URL", help="of a provider of your own, or in the place of the usual one")
    setup.add_argument("--dialect", choices=["openai", "anthropic"], help="what such a provider speaks")
    setup.add_argument("--keyring", action="store_true", help="keep the key in the keyring of the desktop")
    alias = argparse.BooleanOptionalAction
    setup.add_argument("--alias", action=alias, help="install the shell alias `kimi` (default: asked for)")
    setup.add_argument("--no-check", action="store_true", help="don't try the key and the model")
    setup.add_argument("--yes", action="store_true", help="ask nothing: take the default of what no flag answers")


def _provider(provider: argparse.ArgumentParser) -> None:
    provider.add_argument("name", metavar="NAME", nargs="?", help="who shall answer Claude Code from now on")
    provider.add_argument("--model", metavar="MODEL", help="what it calls the model (default: one that fits)")
    _json(provider)


def _sessions(sessions: argparse.ArgumentParser) -> None:
    _json(sessions)
    actions = sessions.add_subparsers(title="actions", metavar="ACTION")
    help = "cancel live streams, and show their ids"
    cancel = actions.add_parser("cancel", help=help, description=f"{help[0].upper()}{help[1:]}.")
    cancel.set_defaults(handler="sessions:cancel")
    which = cancel.add_mutually_exclusive_group(required=True)
    which.add_argument("id", metavar="ID", nargs="?", help="of a stream, or of a session: all its streams")
    which.add_argument("--stale", action="store_true", help="all streams for which nothing comes any more")
    cancel.add_argument(
        "--idle", metavar="SECONDS", type=_seconds, default=60.0, help="for how long nothing has come (default: 60)"
    )


def _key(key: argparse.ArgumentParser) -> None:
    actions = key.add_subparsers(title="actions", metavar="ACTION", required=True)

    def action(name: str, handler: str, help: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
        sub.set_defaults(handler=handler)
        sub.add_argument("--config", metavar="PATH", help="the configuration file (default: the running service's)")
        return sub

    add = action("add", "key:add", "make a key for a client, and show it once; the configuration gets its hash")
    add.add_argument("name", metavar="NAME", help="what logs, limits and lists call the client")
    help = "what it may ask for, as in 'claude-*' (default: all)"
    add.add_argument("--models", metavar="GLOB", nargs="+", action="extend", help=help)
    add.add_argument("--requests-per-minute", metavar="N", type=_number)
    add.add_argument("--burst-size", metavar="N", type=_number, help="how many of them at once")
    add.add_argument("--max-concurrent", metavar="N", type=_number, help="streams at the same time")
    add.add_argument("--no-dashboard", action="store_true", help="it may not see, nor cancel, what others do")
    add.add_argument("--key", metavar="-", choices=["-"], help="take the key from standard input")
    _json(action("list", "key:list_keys", "show names, fingerprints and limits; never keys"))
    revoke = action("revoke", "key:revoke", "take a key away, and cancel the streams that it has")
    revoke.add_argument("which", metavar="NAME|FINGERPRINT")


def _install(install: argparse.ArgumentParser) -> None:
    kind = install.add_mutually_exclusive_group()
    help = "for the machine, as root (the default for root)"
    kind.add_argument("--system", dest="kind", action="store_const", const="system", help=help)
    help = "for one user, without root (the default for others)"
    kind.add_argument("--user", dest="kind", action="store_const", const="user", help=help)
    install.add_argument("--config", metavar="PATH", help="the configuration (default: the system's or the user's)")
    install.add_argument("--dry-run", action="store_true", help="show the files, and write nothing")
    install.add_argument("--force", action="store_true", help="replace files that differ")
    install.add_argument("--uninstall", action="store_true", help="remove the units; configuration and records stay")


def _json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="as one JSON object")


def _filters(command: argparse.ArgumentParser) -> None:
    """`dest` is the name of the parameter.  What values mean is for `shared.history.parameters` to say."""
    group = command.add_argument_group("filters", "All of them hold; of one that is given several times, any does.")
    when = "30m, 24h, 7d ago; 2026-11-21, 2026-11-21T08:30:00Z; epoch seconds"
    group.add_argument("--since", metavar="TIME", help=f"streams that began then or later: {when}")
    group.add_argument("--until", metavar="TIME", help="streams that began earlier")
    for name, metavar in _PROPERTIES.items():
        group.add_argument(f"--{name}", metavar=metavar, action="append")
    group.add_argument("--min-duration", metavar="SECONDS", help="streams that took at least so long")
    group.add_argument("--text", metavar="TEXT", help="a part of the stream's id, its trace or its session")


def _number(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text[:8]) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1000000")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of lines")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value
