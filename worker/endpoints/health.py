"""`/health`, `/health/live`, `/health/ready`: for load balancers and people; no key needed."""

from typing import Any

import msgspec

from shared import VERSION
from worker.asgi import JSON, Request
from worker.gateway import Gateway

FEATURES = [
    *("openai", "anthropic", "streaming", "cancellation", "fallbacks", "accounting"),
    *("sessions", "rate_limits", "provider_health", "metrics", "live_events", "dashboard", "history", "costs"),
]


async def live(gateway: Gateway, request: Request) -> None:
    """This worker answers."""
    await request.respond_json(_state(gateway, "ok"))


async def ready(gateway: Gateway, request: Request) -> None:
    """503 while draining, or with no provider to ask."""
    problem = "draining" if gateway.draining else None if gateway.config.providers else "no provider is configured"
    await request.respond(503 if problem else 200, msgspec.json.encode(_state(gateway, problem or "ok")), [JSON])


def _state(gateway: Gateway, status: str) -> dict[str, Any]:
    features = [*FEATURES, "agent"] if gateway.config.agent.enabled else FEATURES
    return {"status": status, "service": "kimi-proxy", "version": VERSION, "features": features}
