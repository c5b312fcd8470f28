"""The books of a soak: every request, stream and token, and those that nothing explains.  Pure.

What a client saw, what the database holds, what the upstreams sent and what was done to the service are four witnesses
that know nothing of each other; where they disagree, the ledger has an `unexplained` row.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fakes.script import PROMPT_TOKENS
from fakes.soak.faults import History
from fakes.soak.plan import BAD, UNREACHABLE, Ask
from fakes.soak.seen import Seen, ordered
from fakes.soak.upstream import Sent

MODEL_CLIENTS = ("reads", "reads late", "sends slowly", "pipelines", "agent")
"""Whose requests reach a model and are waited for."""
LEAVING_CLIENTS = ("leaves", "half closes", "never reads", "agent leaves")
NO_STREAM = ("never finishes", "garbage", "odd", "looks", "listens", "is deaf", "cancels")
"""Whose requests never become a stream."""
SLOW_CLIENTS = ("never reads", "reads late")
BROKEN_UPSTREAM = ("ReadError", "WriteError", "RemoteProtocolError", "ReadTimeout", "ConnectError", "ConnectTimeout")
"""What an upstream's fault that the plan does not know of may look like."""
SLACK = 3.0
"""Seconds by which clocks and looks may differ."""
PIECE_CHARS = 4096


@dataclass(frozen=True)
class Unexplained:
    """Something that should not be."""

    trace: str
    what: str


@dataclass
class Ledger:
    """What has come out."""

    requests: int = 0
    answered: Counter[str] = field(default_factory=Counter)
    """By kind; the sum is `requests`."""
    begun: int = 0
    """Streams that have begun, as the log says…"""
    recorded_once: int = 0
    """…and those of them that have exactly one record."""
    refused: int = 0
    """Streams that were refused, or cancelled, before they began; they have their one record, too."""
    ends: Counter[str] = field(default_factory=Counter)
    """Of the records, by status."""
    told: int = 0
    """Tokens that upstreams told of in answers that were recorded with the upstream's own count…"""
    recorded: int = 0
    """…and what was recorded of them."""
    counted: int = 0
    """Tokens that were recorded by the service's own count…"""
    least: int = 0
    """…which must be no fewer than what clients have read…"""
    most: int = 0
    """…and no more than what upstreams have written; each is what some whole number of deltas amounts to."""
    large: int = 0
    """Answers of megabytes that nobody read to the end: between the same bounds, but partly estimated."""
    unexplained: list[Unexplained] = field(default_factory=list)


class Books:
    """Makes a `Ledger`."""

    def __init__(
        self,
        seen: Iterable[Seen],
        records: Iterable[Mapping[str, Any]],
        sent: Iterable[Sent],
        begun: Counter[str],
        history: History,
        cancelled: list[tuple[float, float]],
        count: Callable[[str], int],
    ) -> None:
        self._seen = list(seen)
        self._records: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for record in records:
            self._records[record["trace"]].append(record)
        self._sent: dict[str, list[Sent]] = defaultdict(list)
        for one in sent:
            self._sent[one.trace].append(one)
        self._begun = begun
        self._history = history
        self._cancelled = cancelled
        self._count_text = count
        self._sessions: dict[str, list[Seen]] = defaultdict(list)
        for one in self._seen:
            if one.ask.session:
                self._sessions[one.ask.session].append(one)
        self.ledger = Ledger()

    def close(self) -> Ledger:
        """Everything, once."""
        ledger = self.ledger
        for seen in self._seen:
            ledger.requests += 1
            ledger.answered[self._kind(seen)] += 1
            for what in [*seen.faults, *self._explain(seen)]:
                self._miss(seen.ask.trace, f"{_about(seen)}: {what}")
        self._streams()
        for problem in self._history.problems:
            self._miss("-", problem)
        return ledger

    def _miss(self, trace: str, what: str) -> None:
        self.ledger.unexplained.append(Unexplained(trace, what))

    # --- requests

    def _kind(self, seen: Seen) -> str:
        if seen.kind == "left":
            return "cancelled by the client"
        if seen.kind == "stopped":
            return "nonsense, refused or hung up on"
        if seen.kind == "closed idle":
            return "not taken: an idle connection was closed at that moment"
        if seen.kind == "refused" or (seen.kind == "cut" and self._was_in_the_queue(seen)):
            return "not taken: nobody listened, as the service was stopped"
        if seen.kind == "cut" and self._was_killed(seen):
            return "cut: the worker was killed on purpose"
        if seen.kind == "cut":
            return "cut: it did not read its answer"
        if seen.kind == "error event":
            return "an error event of its dialect"
        if seen.kind == "JSON error":
            return "an error in JSON"
        return seen.kind

    def _explain(self, seen: Seen) -> list[str]:
        """What can't be explained of one request."""
        ask = seen.ask
        records = self._records.get(ask.trace, [])
        if len(records) > 1:
            return [f"{len(records)} records"]
        record = records[0] if records else None
        if ask.client in NO_STREAM:
            return self._explain_no_stream(seen, record)
        match seen.kind:
            case "silence":
                return [f"no end within {seen.ended - seen.asked:.0f} s; record {_short(record)}"]
            case "refused":
                if not _within(self._history.down, seen.asked, seen.ended):
                    return [f"refused: {seen.what}"]
                return [f"refused, yet there is a record: {_short(record)}"] if record else []
            case "closed idle":
                if self._was_killed(seen):
                    return []
                told = f"{seen.what}, after {seen.ended - seen.asked:.3f} s"
                return [f"its connection was closed without an answer ({told}); {_short(record)}"] if record else []
            case "cut":
                return self._explain_cut(seen, record)
            case "left":
                return self._explain_left(seen, record)
            case "stopped":
                return [f"hung up on: {_short(record)}"]
        return self._explain_answer(seen, record)

    def _explain_no_stream(self, seen: Seen, record: Mapping[str, Any] | None) -> list[str]:
        if record is not None:
            return [f"a record of what is no stream: {_short(record)}"]
        if seen.kind == "refused" and not _within(self._history.down, seen.asked, seen.ended):
            return [f"refused: {seen.what}"]
        if seen.kind == "silence":
            return ["no end"]
        if seen.kind == "cut" and not self._was_killed(seen):
            gone = _within(self._history.leaving, seen.asked, seen.ended + SLACK)
            gone = gone or self._was_in_the_queue(seen)
            return [] if seen.ask.client in ("listens", "is deaf") or gone else [f"cut: {seen.what}"]
        if seen.status == 503 and seen.ask.client != "odd" and not self._was_unsettled(seen):
            return [f"status 503: {seen.what}"]
        return []

    def _explain_cut(self, seen: Seen, record: Mapping[str, Any] | None) -> list[str]:
        if self._was_killed(seen):
            if record is None or record["error_type"] == "worker_died":
                return []
            return self._explain_end(seen, record)  # it had ended, but for what its client heard
        if record is not None and seen.ask.client in SLOW_CLIENTS:
            return self._explain_end(seen, record)
        if self._was_in_the_queue(seen):
            return []
        return [f"cut: {seen.what}; {_short(record)}"]

    def _explain_left(self, seen: Seen, record: Mapping[str, Any] | None) -> list[str]:
        if seen.ask.phase in ("in the head", "in the body"):
            return [f"a record of half a request: {_short(record)}"] if record else []
        if record is None:
            heard = seen.status == 200 and not self._was_killed(seen)
            return ["it was answered, and there is no record"] if heard else []
        return self._explain_end(seen, record)

    def _explain_answer(self, seen: Seen, record: Mapping[str, Any] | None) -> list[str]:
        """Of a request that had an answer to its end."""
        if record is None:
            if seen.kind == "JSON error" and seen.status == 503 and self._was_unsettled(seen):
                return []
            if seen.ask.client == "sends slowly" and seen.status == 408:
                return []  # it was too slow, with all that went on
            return [f"{seen.kind} {seen.status or ''} without a record: {seen.what}"]
        found = []
        if seen.kind == "completed" and record["status"] != "completed":
            if record["error_type"] != "worker_died":  # which is looked at below
                found.append(f"it was answered to its end, the record says {_short(record)}")
        elif seen.kind != "completed" and record["status"] == "completed":
            found.append(f"{seen.kind}, the record says completed: {seen.what}")
        if record["error_type"] != "worker_died" and record["http_status"] != seen.status:
            found.append(f"status {seen.status}, the record says {record['http_status']}")
        return found + self._explain_end(seen, record)

    def _explain_end(self, seen: Seen, record: Mapping[str, Any]) -> list[str]:
        """What can't be explained of how a record says that a stream ended."""
        ask = seen.ask
        error, status = record["error_type"], record["status"]
        if status == "completed":
            return [] if _can_complete(ask) else [f"completed, though the upstream does {ask.how}"]
        ended = record["started"] + record["duration"]
        reasons = {
            "client_disconnect": seen.kind in ("left", "cut") or ask.client in LEAVING_CLIENTS,
            "timeout": ask.client in SLOW_CLIENTS,
            "registry_new_stream": any(
                other is not seen and seen.asked - SLACK <= other.asked <= ended + SLACK
                for other in self._sessions.get(ask.session or "", ())
            ),
            "admin": _within(self._cancelled, seen.asked, ended + SLACK),
            "shutdown": _within(self._history.leaving, seen.asked, ended + SLACK),
            "ConversationUnavailable": bool(ask.session) and self._was_unsettled(seen),  # the supervisor has it
            "worker_died": self._was_killed(seen) or self._a_death(record["worker"], ended),
        }
        if error in reasons:
            return [] if reasons[error] else [f"{status}/{error} for no reason"]
        if status == "cancelled":
            return [f"cancelled/{error}"]
        if _may_fail(ask):
            return []
        if error in BROKEN_UPSTREAM and self._upstream_was_hurt(seen.asked, ended):
            return []
        return [f"failed/{error}, though the upstream does {ask.how}: {seen.what}"]

    def _was_killed(self, seen: Seen) -> bool:
        """Whether the worker that held this connection was killed on purpose."""
        return any(
            seen.port in victim.ports and seen.connected <= victim.at + 0.1 and victim.at <= seen.ended + 0.1
            for victim in self._history.victims
        )

    def _was_in_the_queue(self, seen: Seen) -> bool:
        """Whether nobody had accepted its connection yet when the listening socket was closed with its last owner."""
        unheard = seen.status is None and seen.ask.trace not in self._begun and seen.ask.trace not in self._records
        return unheard and _within(self._history.down, seen.asked, seen.ended)

    def _a_death(self, slot: int, ended: float) -> bool:
        """Whether the worker in this slot was killed just then: its clients may have had the end of their answers."""
        return any(
            victim.slot == slot and victim.at - SLACK <= ended <= victim.dead + SLACK
            for victim in self._history.victims
        )

    def _was_unsettled(self, seen: Seen) -> bool:
        windows = [*self._history.leaving, *self._history.down]
        return _within(windows, seen.asked - SLACK, seen.ended + SLACK)

    def _upstream_was_hurt(self, began: float, ended: float) -> bool:
        hurts = [
            (done.began, done.ended)
            for done in self._history.done
            if done.injection.fault in ("drop upstreams", "pause upstream")
        ]
        return _within(hurts, began - SLACK, ended + SLACK)

    # --- streams and tokens

    def _streams(self) -> None:
        ledger = self.ledger
        ledger.begun = len(self._begun)
        asked = {seen.ask.trace: seen for seen in self._seen}
        for seen in self._seen:
            if seen.ask.client == "pipelines":
                asked[f"{seen.ask.trace}-b"] = seen
        for trace, times in self._begun.items():
            records = len(self._records.get(trace, ()))
            ledger.recorded_once += records == 1
            if times != records:
                self._miss(trace, f"begun {times} times, {records} records")
        for trace, records in self._records.items():
            for record in records:
                ledger.refused += trace not in self._begun
                ledger.ends[record["status"]] += 1
                if trace not in asked:
                    self._miss(trace, f"a record of what nobody asked: {_short(record)}")
                elif (fault := self._tokens(asked[trace], trace, record)) is not None:
                    self._miss(trace, f"{_about(asked[trace])}: {fault}; {_short(record)}")

    def _tokens(self, seen: Seen, trace: str, record: Mapping[str, Any]) -> str | None:
        """What is wrong with the tokens of a record."""
        ask, sent = seen.ask, self._sent.get(trace, [])
        found, source = record["completion_tokens"], record["completion_source"]
        if record["prompt_source"] == "provider" and record["prompt_tokens"] % PROMPT_TOKENS:
            return f"{record['prompt_tokens']} prompt tokens, {PROMPT_TOKENS} were told"
        if ask.client.startswith("agent"):
            return self._agent_tokens(ask, sent, record)
        last = sent[-1] if sent else None
        if source is None:
            return "no tokens, though some were sent" if last is not None and last.pieces else None
        if source == "provider":
            told = [one.told for one in sent if one.told is not None]
            if found not in told:
                return f"{found} tokens, {told} were told"
            self.ledger.told += told[-1]
            self.ledger.recorded += found
            return None
        if trace.endswith("-b"):
            least = most = len(ordered(ask))
        else:
            least, most = (seen.pieces, last.perhaps if last is not None else 0)
        if record["error_type"] == "worker_died":
            least = 0
        if source == "counted":
            least = most = len(ordered(ask))
        low, high, fits = self._bounds(ask, least, most, found, died=record["error_type"] == "worker_died")
        if "big" in ask.how:
            self.ledger.large += 1
        else:
            self.ledger.counted += found
            self.ledger.least += low
            self.ledger.most += high
        return (
            None if fits else f"{found} tokens ({source}), between {low} and {high} can be ({least} to {most} pieces)"
        )

    def _bounds(self, ask: Ask, least: int, most: int, found: int, *, died: bool) -> tuple[int, int, bool]:
        """Tokens of so many pieces, and whether `found` is what some number of pieces between these amounts to."""
        texts = [piece.name + piece.text for piece in ordered(ask)]
        if "big" in ask.how:  # counted in parts, and estimated where that takes too long
            chars = [sum(map(len, texts[:number])) for number in (least, most)]
            low, high = self._count("".join(texts[:least])), -(-chars[1] // 4)
            return (
                int(low * 0.98),
                high,
                int(low * 0.98) - 2 <= found <= max(high, self._count("".join(texts[:most]))) + 2,
            )
        prefixes = ["".join(texts[:number]) for number in range(least, max(least, most) + 1)]
        counts = [-(-len(text) // 4) for text in prefixes] if died else [self._count(text) for text in prefixes]
        return min(counts), max(counts), found in counts

    def _count(self, text: str) -> int:
        return sum(self._count_text(text[at : at + PIECE_CHARS]) for at in range(0, len(text), PIECE_CHARS))

    def _agent_tokens(self, ask: Ask, sent: list[Sent], record: Mapping[str, Any]) -> str | None:
        found, source = record["completion_tokens"], record["completion_source"]
        if record["status"] == "completed":
            told = sum(one.told or 0 for one in sent)
            if (found, source) != (told, "provider"):
                return f"{found} tokens ({source}), {told} were told"
            self.ledger.told += told
            self.ledger.recorded += found
            return None
        most = sum(self._count(f"Bash{ask.phase}{ask.trace}") + 40 for one in sent if one.perhaps)
        if found is not None and found > most:
            return f"{found} tokens, at most {most} were sent"
        return None


def _can_complete(ask: Ask) -> bool:
    """Whether the upstream's answer may be taken for whole."""
    if ask.provider in UNREACHABLE:
        return False
    if ask.how not in BAD:
        return True
    if "malformed" in ask.how:
        return ask.stream
    return not ask.stream and ask.how.startswith(("eof", "inline-error"))


def _may_fail(ask: Ask) -> bool:
    """Whether the plan has the stream fail."""
    return ask.how in BAD or ask.provider in (*UNREACHABLE, "narrow") or ask.how.startswith("hang")


def _within(windows: Iterable[tuple[float, float]], began: float, ended: float) -> bool:
    return any(first <= ended and began <= last for first, last in windows)


def _about(seen: Seen) -> str:
    ask = seen.ask
    asked = f"{ask.client} {ask.dialect} {ask.model or ask.phase}{' streamed' if ask.stream else ''}"
    return f"{asked}{f' {ask.phase}' if ask.phase else ''}, {seen.kind}"


def _short(record: Mapping[str, Any] | None) -> str:
    if record is None:
        return "no record"
    names = ("status", "error_type", "http_status", "worker", "completion_tokens", "completion_source", "retries")
    return (
        " ".join(f"{name}={record[name]}" for name in names if record[name] is not None)
        + f" {record['duration']:.2f} s"
    )
