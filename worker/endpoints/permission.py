"""What a client with a name may do beside asking for models."""

from shared.config import Client
from worker.asgi import HttpError


def check_dashboard(client: Client | None) -> None:
    """`HttpError` 403 for one that may not see, nor end, what others do."""
    if client is not None and not client.dashboard:
        raise HttpError(
            403,
            f"the dashboard and what it shows are not for the client {client.name}, which has dashboard = false",
            code="dashboard_not_allowed",
        )
