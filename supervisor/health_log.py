"""The two lines of the log about the health of providers."""

from shared.events import ProviderDegraded, ProviderRecovered
from shared.logs import get_logger


def log_health(event: ProviderDegraded | ProviderRecovered) -> None:
    """Write the line of one change, as `supervisor.health.HealthBoard` publishes it."""
    log = get_logger()
    match event:
        case ProviderDegraded():
            types = ",".join(f"{type}:{count}" for type, count in event.types.items())
            log.warning("provider_degraded", provider=event.provider, errors=event.errors, types=types)
        case ProviderRecovered():
            log.info("provider_recovered", provider=event.provider)
