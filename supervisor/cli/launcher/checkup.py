"""The layers between Claude Code and a model, looked at one after the other: each is well, or has a fix.

    for layer in Checkup(None, os.environ).layers():
        print(layer.text, layer.fix)

What rests on a layer that is not well is not tried.  A service that does not run is started for the round trip, as
`launch` would, and stopped afterwards.
"""

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr
from pathlib import Path
from typing import Literal

from msgspec import Struct

from shared import VERSION
from shared.config import ChatKit, Config, Provider
from shared.config.bind import InheritedFd, Tcp, parse_bind
from shared.config.locate import ENV_NAME, Loaded
from shared.errors import ConfigError, ControlError, KimiProxyError, StartError
from shared.keys import resolve_keys
from shared.routing import Target, resolve
from supervisor import listen
from supervisor.cli.client import NotRunningError, control_paths
from supervisor.cli.interrupt import held
from supervisor.cli.launcher.claude import claude_version, find_claude
from supervisor.cli.launcher.clientkey import CLIENT, find_key
from supervisor.cli.launcher.environment import choose_models
from supervisor.cli.launcher.masked import key_source, masked, short_path
from supervisor.cli.launcher.probe import TIMEOUT, probe
from supervisor.cli.launcher.roundtrip import round_trip
from supervisor.cli.launcher.service import ensure_service, load_meant
from supervisor.cli.live import ask_status
from supervisor.control import StatusReply

Name = Literal["config", "key", "port", "service", "provider", "claude", "round_trip"]
State = Literal["ok", "failed", "not_tried"]


class Layer(Struct, frozen=True, kw_only=True):
    """One line: `text` for people, `fix` for what has failed; `provider` where it is about one."""

    layer: Name
    state: State
    text: str
    fix: str | None = None
    provider: str | None = None


class Checkup:
    """See the module.  Blocks; for the main thread of a command."""

    def __init__(self, option: str | None, env: Mapping[str, str], *, timeout: float = TIMEOUT) -> None:
        self._option = option
        self._env = env
        self._timeout = timeout
        self._loaded: Loaded | None = None
        self._status: StatusReply | None = None
        self._service_failed = ""
        self._keys: dict[str, str | None] = {}
        """Provider → its key, None for those that need none; without those whose key can't be had."""
        self._keyless = ""
        """One of those."""
        self._provider_failed = ""

    def layers(self) -> Iterator[Layer]:
        """One after the other, each as soon as it is known."""
        self._ask_status()
        yield self._config()
        yield from self._each_key()
        yield from self._ports()
        yield self._service()
        yield from self._providers()
        yield self._claude()
        yield self._round_trip()

    # What is there

    def _ask_status(self) -> None:
        try:
            self._status = ask_status(control_paths(self._env))
        except NotRunningError:
            pass
        except ControlError as error:
            self._service_failed = str(error)

    def _config(self) -> Layer:
        named = self._option or self._env.get(ENV_NAME)
        served = self._status.config_source if self._status is not None else None
        try:
            # As commands that change it do: what nobody names is the running service's.
            self._loaded = load_meant(self._option if named else served, self._env)
        except ConfigError as error:
            missing = named is not None and not os.path.exists(named)
            again = f"kimi-proxy setup --config {named}" if missing else "correct the file; or: kimi-proxy setup"
            return Layer(layer="config", state="failed", text=_one_line(error), fix=again)
        path, config = self._loaded.path, self._loaded.config
        if path is None and set(config.providers) == {"echo"}:
            self._loaded = None
            return Layer(
                layer="config",
                state="failed",
                text="there is none, and no key in the environment: only the built-in echo answers",
                fix="kimi-proxy setup",
            )
        text = "none: built in, for the keys in the environment" if path is None else short_path(path, self._env)
        return Layer(layer="config", state="ok", text=text)

    def _each_key(self) -> Iterator[Layer]:
        config = self._config_or_none()
        if config is None:
            yield _not_tried("key", "there is no configuration to look into")
            return
        needy = [provider for provider in config.providers.values() if provider.kind == "http"]
        for provider in needy:
            yield self._key(provider)
        for provider in config.providers.values():
            if provider.kind == "echo":
                self._keys[provider.name] = None
        if not needy:
            yield Layer(layer="key", state="ok", text="the built-in echo needs none")

    def _key(self, provider: Provider) -> Layer:
        name = provider.name
        try:
            key = resolve_keys(Config(providers={name: provider}, chatkit=ChatKit()), self._env).get(name)
        except ConfigError as error:
            served = self._served(name)
            if served:
                text = f"{name}: the running service has one, which is not to be seen from here"
                return Layer(layer="key", state="ok", text=text, provider=name)
            return Layer(layer="key", state="failed", text=str(error), fix=f"kimi-proxy set-key {name}", provider=name)
        self._keys[name] = key
        text = f"{name}: {masked(key)}, from {key_source(provider, self._env)}" if key else f"{name}: none is sent"
        return Layer(layer="key", state="ok", text=text, provider=name)

    def _served(self, name: str) -> bool:
        """Whether the running service has a key for that provider, wherever from."""
        return self._status is not None and any(
            provider.name == name and provider.has_key for provider in self._status.providers
        )

    def _ports(self) -> Iterator[Layer]:
        config = self._config_or_none()
        if config is None:
            yield _not_tried("port", "the configuration tells which")
            return
        for bind in config.server.bind:
            yield self._port(bind, config)

    def _port(self, bind: str, config: Config) -> Layer:
        parsed = parse_bind(bind)
        if isinstance(parsed, InheritedFd):
            return _not_tried("port", f"{bind} is what the service is started with")
        served = [url.partition("://")[2] or url for url in self._status.bind] if self._status else []
        if bind in served or (isinstance(parsed, Tcp) and parsed.host == "localhost" and _same_port(parsed, served)):
            return Layer(layer="port", state="ok", text=f"{bind} is the service's")
        try:
            opened = listen.open_listeners(
                [bind], tcp_user_timeout=config.server.tcp_user_timeout, env={}, patience=0.0
            )
        except StartError as error:
            problem, _, fix = str(error).partition("; ")
            return Layer(layer="port", state="failed", text=problem.removeprefix(f"bind {bind!r}: "), fix=fix or None)
        listen.close_listeners(opened)
        elsewhere = f" (the service is at {', '.join(self._status.bind)})" if self._status else ""
        return Layer(layer="port", state="ok", text=f"{bind} is free{elsewhere}")

    def _service(self) -> Layer:
        if self._service_failed:
            return Layer(layer="service", state="failed", text=self._service_failed, fix="kimi-proxy restart")
        status = self._status
        if status is None:
            text = "does not run now: `kimi-proxy launch` starts it, as the round trip below does"
            return Layer(layer="service", state="not_tried", text=text)
        serving = sum(worker.state == "serving" for worker in status.workers)
        about = f"{status.version} runs as pid {status.pid}, {serving} of {status.workers_wanted} workers"
        problem, fix = None, None
        if status.config_error:
            problem, fix = f"it refuses its configuration: {status.config_error}", "correct it; kimi-proxy reload"
        elif status.crash_loop or not serving:
            problem, fix = status.crash_loop or f"{about} serve", "kimi-proxy logs tells why; kimi-proxy restart"
        elif status.version != VERSION:
            problem, fix = f"{about}, and this is {VERSION}", "kimi-proxy restart"
        elif self._loaded is not None and not _same_file(status.config_source, self._loaded.path):
            problem = f"it has another configuration: {status.config_source or 'the built-in one'}"
            fix = f"kimi-proxy restart --config {self._loaded.path}" if self._loaded.path else "kimi-proxy restart"
        if problem is not None:
            self._service_failed = problem
            return Layer(layer="service", state="failed", text=problem, fix=fix)
        return Layer(layer="service", state="ok", text=about)

    # What answers

    def _providers(self) -> Iterator[Layer]:
        config = self._config_or_none()
        if config is None:
            yield _not_tried("provider", "the configuration tells which")
            return
        targets = claude_targets(config)
        if not targets:
            self._provider_failed = "no model for Claude Code"
            known = next(iter(config.providers), "NAME")
            yield Layer(
                layer="provider",
                state="failed",
                text="the configuration has no model for what Claude Code asks for (claude-*)",
                fix=f"kimi-proxy provider {known}",
            )
        for target in targets:
            layer = self._provider(config.providers[target.provider], target)
            if layer.state == "failed":
                self._provider_failed = self._provider_failed or target.provider
            yield layer

    def _provider(self, provider: Provider, target: Target) -> Layer:
        name = provider.name
        if name not in self._keys:
            why = f"{name}: its key is known to the service alone" if self._served(name) else f"{name}: it has no key"
            if not self._served(name):
                self._provider_failed = name
            return _not_tried("provider", why, name)
        if provider.kind == "echo":
            return Layer(layer="provider", state="ok", text="echo: built in, repeats what it is told", provider=name)
        found = probe(provider, self._keys[name], target.model, self._timeout)
        if not found.ok:
            return Layer(
                layer="provider", state="failed", text=found.problem or "no answer", fix=found.fix, provider=name
            )
        steps = ", ".join(found.passed)
        text = f"{name} answers for {target.model} in {found.seconds:.1f} s ({steps})"
        return Layer(layer="provider", state="ok", text=text, provider=name)

    def _claude(self) -> Layer:
        try:
            claude = find_claude(None, self._env)
        except ControlError as error:
            problem, _, fix = str(error).partition(": ")
            return Layer(layer="claude", state="failed", text=problem.removeprefix("Claude Code "), fix=fix)
        version = claude_version(claude, self._env)
        if version is None:
            return Layer(
                layer="claude",
                state="failed",
                text=f"{' '.join(claude.command)} does not run",
                fix=f"see what it says: {' '.join(claude.command)} --version",
            )
        return Layer(layer="claude", state="ok", text=f"{version}, {' '.join(claude.command)}")

    def _round_trip(self) -> Layer:
        loaded = self._loaded
        failed = None
        if loaded is None:
            failed = "the configuration is not in order"
        elif self._service_failed:
            failed = "the service is not in order"
        elif self._status is None and self._keyless:
            failed = f"the service does not start without the key of {self._keyless}"
        elif self._provider_failed:
            failed = f"{self._provider_failed} comes before it"
        if loaded is None or failed is not None:
            return _not_tried("round_trip", failed or "")
        auth = loaded.config.auth
        key = find_key(auth, self._env)
        if key is None and auth.required:
            why = f"it takes a client's key, and `kimi-proxy launch` has not made its own ({CLIENT}) yet"
            return _not_tried("round_trip", why)
        model = choose_models(loaded.config, None).main
        try:
            # What it says of its start is of no interest here.
            with (
                redirect_stderr(io.StringIO()),
                held() as kept,
                ensure_service(self._option, self._env, kept) as running,
                kept.let(),
            ):
                tried = round_trip(running.url, key, model, self._timeout)
        except KimiProxyError as error:
            return Layer(layer="round_trip", state="failed", text=_one_line(error), fix="kimi-proxy logs tells more")
        if tried.problem is not None:
            return Layer(layer="round_trip", state="failed", text=tried.problem, fix=tried.fix)
        return Layer(layer="round_trip", state="ok", text=f"streamed through {running.url} in {tried.seconds:.1f} s")

    def _config_or_none(self) -> Config | None:
        return self._loaded.config if self._loaded is not None else None


def claude_targets(config: Config) -> tuple[Target, ...]:
    """Whom the requests of Claude Code may reach as `launch` starts it, its main model's first, fallbacks included."""
    try:
        models = choose_models(config, None)
    except ControlError:
        return ()
    names = (models.main, models.sonnet, models.opus, models.haiku)
    found: dict[tuple[str, str], Target] = {}
    for name in names:
        for target in resolve(config, name):
            found.setdefault((target.provider, target.model), target)
    return tuple(found.values())


def _not_tried(layer: Name, why: str, provider: str | None = None) -> Layer:
    return Layer(layer=layer, state="not_tried", text=f"not tried: {why}", provider=provider)


def _one_line(error: KimiProxyError) -> str:
    return str(error).replace("\nkimi-proxy: ", "; ").replace("\n", " ")


def _same_port(bind: Tcp, served: list[str]) -> bool:
    return any(url.rpartition(":")[2] == str(bind.port) for url in served)


def _same_file(one: str | None, other: Path | None) -> bool:
    if one is None or other is None:
        return one is None and other is None
    return os.path.realpath(one) == os.path.realpath(other)
