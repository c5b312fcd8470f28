import pytest
from fakes.admin import status_reply
from fakes.prometheus import parse
from fakes.streams import make_record, make_start
from msgspec import structs

from shared.config import Config, Model
from shared.messages import Beat, Trouble
from shared.records import Tokens
from supervisor.answers import MAX_BODY_BYTES
from supervisor.control import StorageStatus, WorkerStatus
from supervisor.gauges import Gauges
from supervisor.health import ProviderHealth
from supervisor.metrics import MAX_ERROR_TYPES, MAX_MODELS, Metrics

CONFIG = Config(models=(Model(name="kimi-k2", provider="kimi"), Model(name="claude-*", provider="kimi")))


def beat(dropped):
    return Beat(streams=0, connections=0, rss_bytes=0, lag=0.0, dropped=dropped)


def trouble(error_type, **changes):
    fields = {"id": "s1", "provider": "kimi", "message": "", "retry_count": 0, "tokens_received": 0, "retried": True}
    return Trouble(**{**fields, "at": 0.0, "error_type": error_type, **changes})


@pytest.fixture
def metrics():
    return Metrics(CONFIG)


@pytest.fixture
def told(metrics):
    def render(gauges=None, **status):
        return parse(metrics.render(gauges or Gauges(status=status_reply(**status), active={})))

    return render


def test_a_completed_stream(metrics, told):
    metrics.ended(make_record(first_byte=0.3, cost=0.002, cache_read=4, cache_write=2))
    now = told()
    own = {"provider": "kimi", "model": "kimi-k2"}
    gen_ai = {
        "gen_ai_operation_name": "chat",
        "gen_ai_provider_name": "kimi",
        "gen_ai_request_model": "kimi-k2",
    }
    assert now.value("kimi_proxy_streams_total", **own, dialect="openai", status="completed", error_type="") == 1
    assert now.value("kimi_proxy_tokens_total", **own, type="input", source="provider") == 10
    assert now.value("kimi_proxy_tokens_total", **own, type="output", source="counted") == 20
    assert now.value("kimi_proxy_cache_tokens_total", **own, type="read") == 4
    assert now.value("kimi_proxy_cache_tokens_total", **own, type="write") == 2
    assert now.value("kimi_proxy_cost_dollars_total", **own) == 0.002
    assert now.value("gen_ai_client_token_usage_sum", **gen_ai, gen_ai_token_type="input") == 10
    assert now.value("gen_ai_client_token_usage_bucket", **gen_ai, gen_ai_token_type="output", le="16") == 0
    assert now.value("gen_ai_client_token_usage_bucket", **gen_ai, gen_ai_token_type="output", le="64") == 1
    assert now.value("gen_ai_client_operation_duration_seconds_sum", **gen_ai, error_type="") == 1.5
    assert now.value("gen_ai_server_time_to_first_token_seconds_bucket", **gen_ai, le="0.25") == 0
    assert now.value("gen_ai_server_time_to_first_token_seconds_bucket", **gen_ai, le="0.5") == 1
    assert not now.by("kimi_proxy_retries_total")
    assert not now.by("kimi_proxy_cancel_latency_seconds_count")


def test_a_cancelled_stream_counts_what_arrived(metrics, told):
    metrics.ended(
        make_record(
            status="cancelled",
            error_type="client_disconnect",
            completion=Tokens(3, "partial"),
            cancel_latency=0.004,
            retries=2,
        )
    )
    now = told()
    assert now.by("kimi_proxy_streams_total", "status", "error_type") == {("cancelled", "client_disconnect"): 1}
    assert now.sum("kimi_proxy_tokens_total", source="partial", type="output") == 3
    assert now.sum("kimi_proxy_retries_total", provider="kimi") == 2
    assert now.value("kimi_proxy_cancel_latency_seconds_count", reason="client_disconnect") == 1
    assert now.value("kimi_proxy_cancel_latency_seconds_bucket", reason="client_disconnect", le="0.005") == 1
    assert now.sum("gen_ai_client_operation_duration_seconds_count", error_type="client_disconnect") == 1


def test_a_stream_that_came_to_nothing(metrics, told):
    start = make_start(streaming=False)
    metrics.ended(make_record(start=start, status="failed", error_type="ConnectError", prompt=None, completion=None))
    now = told()
    assert now.sum("kimi_proxy_streams_total", status="failed", error_type="ConnectError") == 1
    assert not now.by("kimi_proxy_tokens_total")
    assert not now.by("gen_ai_client_token_usage_count")


def test_only_streamed_answers_have_a_first_token(metrics, told):
    metrics.ended(make_record(start=make_start(streaming=False), first_byte=2.0))
    assert not told().by("gen_ai_server_time_to_first_token_seconds_count")


def test_failed_attempts_by_type_and_status(metrics, told):
    metrics.trouble(trouble("ReadError"))
    metrics.trouble(trouble("ReadError", retried=False))
    metrics.trouble(trouble("HTTPStatusError", http_status=529, provider="claude"))
    assert told().by("kimi_proxy_upstream_errors_total", "provider", "error_type", "http_status") == {
        ("kimi", "ReadError", ""): 2,
        ("claude", "HTTPStatusError", "529"): 1,
    }


def test_models_that_clients_make_up_are_bounded(metrics, told):
    for number in range(MAX_MODELS + 50):
        metrics.ended(make_record(start=make_start(model=f"claude-{number}")))
        metrics.ended(make_record(start=make_start(model="kimi-k2")))
    by_model = told().by("kimi_proxy_streams_total", "model")
    assert len(by_model) == MAX_MODELS + 2
    assert by_model["other",] == 50
    assert by_model["kimi-k2",] == MAX_MODELS + 50


def test_whatever_clients_do_fits_into_an_answer(metrics):
    for number in range(MAX_MODELS + 50):
        start = make_start(model=f"claude-{number:0120}")
        for provider in ("kimi", "groq", "openai"):
            for error_type in (None, *(f"Error{type}" for type in range(10))):
                status = "failed" if error_type else "completed"
                record = make_record(start=start, provider=provider, status=status, error_type=error_type)
                metrics.ended(structs.replace(record, first_byte=0.3, cost=0.1, retries=1))
    text = metrics.render(Gauges(status=status_reply(), active={}))
    assert len(text) < MAX_BODY_BYTES


def test_a_configured_model_always_has_its_name(metrics, told):
    for number in range(MAX_MODELS + 1):
        metrics.ended(make_record(start=make_start(model=f"claude-{number}")))
    metrics.configure(Config(models=(Model(name="new", provider="kimi"),)))
    metrics.ended(make_record(start=make_start(model="new")))
    metrics.ended(make_record(start=make_start(model="kimi-k2")))  # not configured any more
    by_model = told().by("kimi_proxy_streams_total", "model")
    assert by_model["new",] == 1
    assert by_model["other",] == 2


def test_types_of_errors_are_bounded(metrics, told):
    for number in range(MAX_ERROR_TYPES + 5):
        metrics.ended(make_record(status="failed", error_type=f"E{number}"))
    assert told().by("kimi_proxy_streams_total", "error_type")["other",] == 5


def test_dropped_progress_is_counted_over_the_lives_of_workers(metrics, told):
    def dropped():
        return told().value("kimi_proxy_progress_dropped_total")

    for total in (0, 5, 5, 9):
        metrics.beat(11, beat(total))
    metrics.beat(12, beat(2))
    assert dropped() == 11
    metrics.left(11)
    assert dropped() == 11
    metrics.beat(13, beat(1))  # its successor
    assert dropped() == 12
    metrics.beat(11, beat(4))  # another worker that got the same pid
    metrics.beat(11, beat(6))
    assert dropped() == 18


def test_what_others_know_of_this_moment(told):
    status = status_reply(
        workers=[
            WorkerStatus(worker=1, pid=1, generation=1, state="draining", rss_bytes=10, lag=0.5, connections=1),
            WorkerStatus(worker=1, pid=2, generation=2, state="serving", rss_bytes=5, lag=0.1, connections=2),
            WorkerStatus(worker=2, pid=3, generation=2, state="serving", up_pipe_bytes=7, down_pipe_bytes=8),
        ],
        restarts=4,
        storage=StorageStatus(path="x", buffered=3, lost=2, lag=1.5),
    )
    health = {"kimi": ProviderHealth(state="open")}
    now = told(Gauges(status=status, active={"kimi": 2, "gone": 1}, waiting=1, health=health, token_accuracy=0.99))
    assert now.by("kimi_proxy_streams_active", "provider") == {("kimi",): 2, ("gone",): 1}
    assert now.value("kimi_proxy_streams_waiting") == 1
    assert now.value("kimi_proxy_token_accuracy") == 0.99
    assert now.value("kimi_proxy_provider_degraded", provider="kimi") == 1
    assert now.value("kimi_proxy_provider_circuit_open", provider="kimi") == 1
    workers = {("starting",): 0, ("serving",): 2, ("draining",): 1, ("stuck",): 0}
    assert now.by("kimi_proxy_workers", "state") == workers
    assert now.by("kimi_proxy_worker_rss_bytes", "worker") == {("1",): 15, ("2",): 0}
    assert now.by("kimi_proxy_worker_lag_seconds", "worker") == {("1",): 0.5, ("2",): 0}
    assert now.by("kimi_proxy_worker_connections", "worker") == {("1",): 3, ("2",): 0}
    assert now.value("kimi_proxy_up_pipe_bytes", worker="2") == 7
    assert now.value("kimi_proxy_down_pipe_bytes", worker="2") == 8
    assert now.value("kimi_proxy_worker_restarts_total") == 4
    assert now.value("kimi_proxy_store_buffered_records") == 3
    assert now.value("kimi_proxy_store_lost_records_total") == 2
    assert now.value("kimi_proxy_store_lag_seconds") == 1.5
    assert now.value("kimi_proxy_config_last_reload_success") == 1
    assert now.value("kimi_proxy_info", version=status.version) == 1


def test_a_refused_configuration_and_a_provider_that_is_well(told):
    now = told(config_error="line 3: nonsense")
    assert now.value("kimi_proxy_config_last_reload_success") == 0
    assert now.value("kimi_proxy_provider_degraded", provider="kimi") == 0
    assert now.value("kimi_proxy_streams_active", provider="kimi") == 0
    assert not now.by("kimi_proxy_token_accuracy")


def test_workers_that_are_gone_are_gone(metrics, told):
    told(workers=[WorkerStatus(worker=7, pid=1, generation=1, state="serving")])
    assert told(workers=[]).by("kimi_proxy_worker_rss_bytes") == {}
