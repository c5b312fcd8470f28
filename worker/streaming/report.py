"""What a stream tells of itself: to operators in log lines, in their own vocabulary, and to the supervisor."""

import re
import time

from shared.errors import UpstreamError
from shared.logs import get_logger, redacted
from shared.messages import StreamEnded, Trouble
from shared.records import StreamRecord
from worker.health import CircuitOpen
from worker.link import Link
from worker.models import Target
from worker.streaming.limits import LimitExceeded
from worker.streaming.refusal import UntranslatableRequest, UpstreamRejection
from worker.streaming.session import Session

MAX_MESSAGE_CHARS = 2000
"""An upstream may say its error in megabytes, or with the key in it."""
# The client reads which of its values is meant; the log does without: it may be a prompt in the wrong place.
_LONG_QUOTE = re.compile(r"""'[^']{17,}'|"[^"]{17,}\"""")


def tell_start(session: Session, target: Target) -> None:
    """It may begin; the supervisor has known it since its request came."""
    start = session.start
    get_logger().info(
        "stream_start", trace=start.trace, session=start.session, provider=target.provider, model=start.model
    )


def tell_first_byte(session: Session, target: Target, first_byte: float) -> None:
    """The upstream has begun to answer, `first_byte` seconds after the request."""
    start = session.start
    get_logger().info(
        "stream_latency",
        trace=start.trace,
        session=start.session,
        provider=target.provider,
        first_byte=round(first_byte, 4),
    )


def tell_failure(link: Link, session: Session, target: Target, error: UpstreamError, *, retried: bool = False) -> None:
    """An attempt failed; `retried`: another one follows, here or elsewhere.  What was no attempt is only logged."""
    start = session.start
    message = redacted(str(error)[:MAX_MESSAGE_CHARS])
    if isinstance(error, UntranslatableRequest):
        message = _LONG_QUOTE.sub("'…'", message)
    get_logger().warning(
        "STREAM_ERROR",
        trace=start.trace,
        session=start.session,
        provider=target.provider,
        model=target.model,
        error_type=error.error_type,
        message=message,
        retried=retried,
    )
    if isinstance(error, LimitExceeded | CircuitOpen):
        return
    link.send(
        Trouble(
            id=start.id,
            provider=target.provider,
            error_type=error.error_type,
            message=message,
            retry_count=session.retries,
            tokens_received=session.relay.meter.estimate if session.relay is not None else 0,
            retried=retried,
            at=time.time(),
            http_status=error.status if isinstance(error, UpstreamRejection) else None,
        )
    )


def tell_end(link: Link, record: StreamRecord) -> None:
    """The terminal record.  The log has it first: a stream that waits for this one's end logs behind it."""
    start, log = record.start, get_logger()
    if record.status == "cancelled":
        log.info("stream_cancelled", trace=start.trace, session=start.session, reason=record.error_type)
    log.info(
        "stream_end",
        trace=start.trace,
        session=start.session,
        provider=record.provider,
        status=record.status,
        http_status=record.http_status,
        duration=round(record.duration, 4),
        first_byte=None if record.first_byte is None else round(record.first_byte, 4),
        prompt_tokens=record.prompt and record.prompt.count,
        completion_tokens=record.completion and record.completion.count,
        retries=record.retries,
    )
    link.send(StreamEnded(record))
