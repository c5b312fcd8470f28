"""Answers to what workers ask on behalf of their clients, from what the supervisor knows of all workers together.

A refusal is a status from 400 on, with `{"message": …}` as its body: the worker says it in its client's dialect.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import trio

from shared.config import Config
from shared.framing import MAX_FRAME_BYTES
from shared.messages import (
    ActiveSessions,
    Ask,
    CancelSession,
    CancelStale,
    Conversation,
    Down,
    KeepConversation,
    LogIn,
    Metrics,
    Overview,
    Told,
)
from supervisor.control import StatusReply
from supervisor.gauges import Gauges
from supervisor.health import ProviderHealth
from supervisor.ledger import ActiveStream, Ledger
from supervisor.logins import LoginGuard
from supervisor.recent import Minute

MAX_BODY_BYTES = MAX_FRAME_BYTES - 1024
AnsweredAtOnce = Metrics | ActiveSessions | CancelSession | CancelStale | Overview | KeepConversation | LogIn
_encode = msgspec.json.Encoder().encode


class Asker(Protocol):
    """The worker that asks (`supervisor.link.Link`)."""

    def send(self, message: Down) -> None: ...


class Conversations(Protocol):
    """What sessions of the agent have said (`supervisor.conversations.Conversations`)."""

    def keep(self, message: KeepConversation) -> None: ...

    def tell(self, asker: Asker, number: int, asked: Conversation) -> None: ...


class Answers:
    """See the module.  The other parts come as calls, as the hub that holds them is made after this.

    * `config()` is the one in force, `status()` what `kimi-proxy status` shows.
    * `health()` is how the providers are that were ever in trouble, `waiting()` how many streams are not admitted yet.
    * `metrics(gauges)` is the text of all metrics, `recent(now)` the last hour in minutes.
    * `conversations` keeps them, and tells of them when it has read them.
    * `cancel(pid, id)` has the worker with that pid cancel a stream as `admin`; a worker that is gone is no error.
    * `clock` gives the time that the ledger is told, `now` epoch seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        config: Callable[[], Config],
        status: Callable[[], StatusReply],
        health: Callable[[], Mapping[str, ProviderHealth]],
        waiting: Callable[[], int],
        metrics: Callable[[Gauges], bytes],
        recent: Callable[[float], Sequence[Minute]],
        conversations: Conversations,
        cancel: Callable[[int, str], None],
        clock: Callable[[], float] = trio.current_time,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._config = config
        self._status = status
        self._health = health
        self._waiting = waiting
        self._metrics = metrics
        self._recent = recent
        self._conversations = conversations
        self._cancel = cancel
        self._clock = clock
        self._now = now
        self._logins = LoginGuard()

    def answer(self, peer: Asker, ask: Ask) -> None:
        """Tell the worker; exactly one `Told`, whatever it asked, though not always at once."""
        question = ask.question
        if isinstance(question, Conversation):
            self._conversations.tell(peer, ask.number, question)
            return
        status, body = self._reply(question)
        if len(body) > MAX_BODY_BYTES:
            status, body = 500, _encode({"message": f"the answer has {len(body)} bytes, more than a frame takes"})
        peer.send(Told(ask.number, status, body))

    def _reply(self, question: AnsweredAtOnce) -> tuple[int, bytes]:
        match question:
            case Metrics():
                return 200, self.metrics()
            case ActiveSessions():
                return 200, _encode(self.active_sessions())
            case CancelSession(id):
                if cancelled := self.cancel_session(id):
                    return 200, _encode({"cancelled": cancelled})
                return 404, _encode({"message": f"no live stream, and none of a session, has the id {id[:300]!r}"})
            case CancelStale(idle):
                return 200, _encode({"cancelled": self.cancel_stale(idle), "idle": idle})
            case Overview():
                return 200, _encode(self.overview())
            case KeepConversation():
                self._conversations.keep(question)
                return 200, b"{}"
            case LogIn(address, failed):
                wait = self._logins.attempt(address, self._clock(), failed=failed)
                if wait is None:
                    return 200, b"{}"
                message = f"too many logins have failed; try again in {wait} s"
                return 429, _encode({"message": message, "retry_after": wait})

    def metrics(self) -> bytes:
        """All metrics, as Prometheus' text."""
        counts = self._ledger.provider_counts()
        return self._metrics(
            Gauges(
                status=self._status(),
                active={name: seen.active for name, seen in counts.items()},
                waiting=self._waiting(),
                health=self._health(),
                token_accuracy=self._ledger.token_accuracy,
            )
        )

    def active_sessions(self) -> dict[str, Any]:
        """The live streams of all workers, oldest first, and the sums since the service's start.

        `age` and `idle` (since anything came from the upstream) in seconds, `started` in epoch seconds.
        """
        clock = self._clock()
        streams = sorted(self._ledger.active(), key=lambda stream: stream.began)
        return {
            "sessions": [_session(stream, clock) for stream in streams],
            "active": len(streams),
            "tokens_per_second": round(sum(stream.rate for stream in streams), 1),
            "token_accuracy": self._ledger.token_accuracy,
            "totals": self._ledger.totals(),
        }

    def cancel_session(self, id: str) -> list[str]:
        """Cancel the stream with this id, or all streams of the session with this key; the ids of those told to end."""
        return self._cancel_all(
            stream for stream in self._ledger.active() if id in (stream.start.id, stream.start.session)
        )

    def cancel_stale(self, idle: float = CancelStale().idle) -> list[str]:
        """Cancel the streams that nothing has come for in so many seconds; the ids of those told to end."""
        before = self._clock() - idle
        return self._cancel_all(stream for stream in self._ledger.active() if stream.moved < before)

    def overview(self) -> dict[str, Any]:
        """The service at a glance: all of `kimi-proxy status --json`, and what a page needs beside it."""
        config = self._config()
        return {
            **msgspec.to_builtins(self._status()),
            "now": self._now(),
            "waiting": self._waiting(),
            "health": self._health(),
            "token_accuracy": self._ledger.token_accuracy,
            "recent": self._recent(self._now()),
            "models": [
                {"name": model.name, "provider": model.provider, "max_context_size": model.max_context_size}
                for model in config.models
            ],
            "clients": [{"name": client.name, "fingerprint": client.fingerprint} for client in config.auth.clients],
        }

    def _cancel_all(self, streams: Iterable[ActiveStream]) -> list[str]:
        chosen = list(streams)
        for stream in chosen:
            self._cancel(stream.worker_pid, stream.start.id)
        return [stream.start.id for stream in chosen]


def _session(stream: ActiveStream, clock: float) -> dict[str, Any]:
    start = stream.start
    return {
        "id": start.id,
        "trace": start.trace,
        "session": start.session,
        "client": start.client,
        "worker": start.worker,
        "provider": start.provider,
        "model": start.model,
        "dialect": start.dialect,
        "streaming": start.streaming,
        "context_size": start.context_size,
        "prompt_estimate": start.prompt_estimate,
        "started": start.started,
        "age": round(clock - stream.began, 3),
        "idle": round(clock - stream.moved, 3),
        "tokens": stream.tokens,
        "received_bytes": stream.received_bytes,
        "tokens_per_second": round(stream.rate, 1),
    }
