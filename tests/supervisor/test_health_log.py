import json

from fakes.logger import restored_logger

from shared import logs
from shared.config import Logging
from shared.events import ProviderDegraded, ProviderRecovered
from supervisor.health_log import log_health


def test_one_line_a_change(capfd):
    with restored_logger():
        logs.configure(Logging(format="json"))
        log_health(
            ProviderDegraded(
                provider="one", errors=6, types={"ConnectError": 4, "HTTP_503": 2}, timestamp=1_800_000_000.0
            )
        )
        log_health(ProviderRecovered(provider="one", timestamp=1_800_000_060.0))
    degraded, recovered = map(json.loads, capfd.readouterr().err.splitlines())
    assert (degraded["level"], degraded["event"], degraded["provider"]) == ("warning", "provider_degraded", "one")
    assert (degraded["errors"], degraded["types"]) == (6, "ConnectError:4,HTTP_503:2")
    assert (recovered["level"], recovered["event"], recovered["provider"]) == ("info", "provider_recovered", "one")
