"""Metrics and logs: what an operator gets to see."""

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import fields, replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from switchboard_server.core.realtime.stats import NeighbourStats, RealtimeStats
from switchboard_server.core.stats import EventStats, Histogram
from switchboard_server.telemetry.logs import configure_logging
from switchboard_server.telemetry.metrics import Metrics
from switchboard_server.telemetry.rpc_metrics import RPC_BUCKETS

PUBLISH = "switchboard.v1.EventService/Publish"
SUBSCRIBE = "switchboard.v1.EventService/Subscribe"


def commits() -> Histogram:
    histogram = Histogram((0.001, 0.01))
    for seconds in (0.001, 0.0005, 0.0005, 0.002, 0.01, 0.486):
        histogram.observe(seconds)
    return histogram


STATS = EventStats(
    published=7,
    scheduled=5,
    duplicates=2,
    refused={"TOO_LARGE": 4},
    delivered=70,
    gaps=9,
    trimmed=1,
    log_events=6,
    log_bytes=4096,
    first_sequence=2,
    last_sequence=7,
    subscribers=10,
    slow_readers=3,
    tail_bytes=2048,
    pending_bytes=512,
    remembered_ids=11,
    forgotten_ids=12,
    commits=commits(),
)


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Reads what is rendered as Prometheus would: by name and sorted values of the labels."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def test_unary_calls_are_counted_and_timed_by_method_and_code() -> None:
    metrics = Metrics("1.2.3")
    metrics.rpc.unary_done(PUBLISH, "OK", 0.0002)
    metrics.rpc.unary_done(PUBLISH, "OK", 0.00025)
    metrics.rpc.unary_done(PUBLISH, "OK", 60.0)
    metrics.rpc.unary_done(PUBLISH, "UNAVAILABLE", 0.3)
    found = samples(metrics)
    assert found["switchboard_rpc_total", "OK", PUBLISH] == 3
    assert found["switchboard_rpc_total", "UNAVAILABLE", PUBLISH] == 1
    name = "switchboard_rpc_duration_seconds"
    assert found[f"{name}_bucket", "OK", "0.00025", PUBLISH] == 2
    assert found[f"{name}_bucket", "OK", "10.0", PUBLISH] == 2
    assert found[f"{name}_bucket", "OK", "+Inf", PUBLISH] == 3
    assert found[f"{name}_count", "OK", PUBLISH] == 3
    assert found[f"{name}_sum", "OK", PUBLISH] == pytest.approx(60.00045)
    assert found[f"{name}_bucket", "UNAVAILABLE", "0.25", PUBLISH] == 0
    assert found[f"{name}_bucket", "UNAVAILABLE", "0.5", PUBLISH] == 1


def test_streams_are_counted_when_they_end_and_shown_while_they_are_open() -> None:
    metrics = Metrics("1.2.3")
    metrics.rpc.stream_opened(SUBSCRIBE)
    metrics.rpc.stream_opened(SUBSCRIBE)
    metrics.rpc.stream_done(SUBSCRIBE, "CANCELLED")
    found = samples(metrics)
    assert found["switchboard_rpc_streams_open", SUBSCRIBE] == 1
    assert found["switchboard_rpc_total", "CANCELLED", SUBSCRIBE] == 1
    assert not [key for key in found if key[0].startswith("switchboard_rpc_duration")]


def test_connections_and_messages_are_shown() -> None:
    metrics = Metrics("1.2.3")
    stats = RealtimeStats(
        connections={"grpc": 2},
        users=3,
        rooms=4,
        history_bytes=5,
        received=6,
        delivered=7,
        replayed=8,
        dropped=9,
        pending=10,
        ended={"SLOW_CONSUMER": 11},
        neighbours=NeighbourStats(True, *range(12, 22)),
    )
    metrics.watch_realtime(lambda: stats)
    expected = {
        ("switchboard_connections", "grpc"): 2,
        ("switchboard_connections", "websocket"): 0,
        ("switchboard_users_online",): 3,
        ("switchboard_rooms",): 4,
        ("switchboard_room_history_bytes",): 5,
        ("switchboard_messages_received_total",): 6,
        ("switchboard_messages_delivered_total",): 7,
        ("switchboard_messages_replayed_total",): 8,
        ("switchboard_messages_dropped_total",): 9,
        ("switchboard_outbox_messages",): 10,
        ("switchboard_connections_ended_total", "SLOW_CONSUMER"): 11,
        ("switchboard_realtime_connected",): 1,
        ("switchboard_realtime_losses_total",): 12,
        ("switchboard_realtime_nodes",): 13,
        ("switchboard_realtime_swept_total",): 14,
        ("switchboard_realtime_messages_sent_total",): 15,
        ("switchboard_realtime_messages_arrived_total",): 16,
        ("switchboard_realtime_messages_caught_up_total",): 17,
        ("switchboard_realtime_rooms_interrupted_total",): 18,
        ("switchboard_realtime_overflows_total",): 19,
        ("switchboard_realtime_requests_total",): 20,
        ("switchboard_realtime_requests_unanswered_total",): 21,
    }
    assert len(expected) == len(fields(RealtimeStats)) + len(fields(NeighbourStats))
    found = samples(metrics)
    assert {key: found.get(key) for key in expected} == expected


def test_the_hubs_own_numbers_are_read_anew_each_time() -> None:
    stats = STATS
    calls = []

    def read() -> EventStats:
        calls.append(1)
        return stats

    metrics = Metrics("1.2.3")
    metrics.watch_hub(read)
    assert not calls
    expected = {
        ("switchboard_build_info", "1.2.3"): 1,
        ("switchboard_events_published_total",): 7,
        ("switchboard_events_scheduled_total",): 5,
        ("switchboard_gaps_total",): 9,
        ("switchboard_idempotency_ids",): 11,
        ("switchboard_idempotency_forgotten_total",): 12,
        ("switchboard_events_duplicate_total",): 2,
        ("switchboard_events_refused_total", "TOO_LARGE"): 4,
        ("switchboard_events_delivered_total",): 70,
        ("switchboard_events_trimmed_total",): 1,
        ("switchboard_log_events",): 6,
        ("switchboard_log_bytes",): 4096,
        ("switchboard_log_first_sequence",): 2,
        ("switchboard_log_last_sequence",): 7,
        ("switchboard_subscribers",): 10,
        ("switchboard_slow_readers",): 3,
        ("switchboard_tail_bytes",): 2048,
        ("switchboard_pending_bytes",): 512,
        ("switchboard_log_commit_duration_seconds_bucket", "0.001"): 3,
        ("switchboard_log_commit_duration_seconds_bucket", "0.01"): 5,
        ("switchboard_log_commit_duration_seconds_bucket", "+Inf"): 6,
        ("switchboard_log_commit_duration_seconds_count",): 6,
        ("switchboard_log_commit_duration_seconds_sum",): 0.5,
    }
    # A number that the hub counts and nobody is shown would be missing here; commits make five.
    assert len(expected) == 1 + len(fields(EventStats)) - 1 + 5
    found = samples(metrics)
    assert {key: found.get(key) for key in expected} == pytest.approx(expected)
    stats = replace(STATS, published=8)
    assert samples(metrics)["switchboard_events_published_total",] == 8


def test_the_process_itself_is_shown() -> None:
    found = samples(Metrics("1.2.3"))
    assert found["process_resident_memory_bytes",] > 0
    assert found["process_open_fds",] > 0


def test_the_buckets_reach_from_a_quarter_of_a_millisecond_to_ten_seconds() -> None:
    assert RPC_BUCKETS[0] == 0.00025
    assert RPC_BUCKETS[-1] == 10.0
    assert list(RPC_BUCKETS) == sorted(RPC_BUCKETS)


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where logs go during the test; what was configured before comes back after it."""
    root, library = logging.getLogger(), logging.getLogger("websockets")
    before = root.handlers[:], root.level, library.level
    yield io.StringIO()
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    library.setLevel(before[2])


def test_a_line_of_text_holds_level_logger_message_and_facts(stream: io.StringIO) -> None:
    configure_logging("info", "text", stream)
    logging.getLogger("hub").info("listening on %s", "loopback", extra={"port": 8008})
    logging.getLogger("hub").debug("not shown")
    (line,) = stream.getvalue().splitlines()
    assert line.endswith(" INFO    hub: listening on loopback port=8008")


def test_a_name_with_line_breaks_cannot_forge_a_line(stream: io.StringIO) -> None:
    configure_logging("info", "text", stream)
    logging.getLogger("hub").info("hello %s", "a\n2026 INFO b", extra={"peer": "\x1b[31m\u2028x"})
    (line,) = stream.getvalue().splitlines()
    assert line.endswith(r"hello a\n2026 INFO b peer=\x1b[31m\u2028x")


def test_a_line_of_json_holds_the_facts_as_members_and_the_traceback(stream: io.StringIO) -> None:
    configure_logging("warning", "json", stream)
    try:
        int("bad\nnews")
    except ValueError:
        logging.getLogger("hub").exception("failed", extra={"port": 1, "level": "x", "set": {1}})
    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert (entry["level"], entry["logger"], entry["message"]) == ("error", "hub", "failed")
    assert (entry["port"], entry["set"]) == (1, "{1}")
    assert "ValueError: invalid literal" in entry["error"]
    assert entry["time"].endswith("Z")


def test_headers_of_requests_are_not_logged_even_at_debug(stream: io.StringIO) -> None:
    configure_logging("debug", "text", stream)
    logging.getLogger("websockets.server").debug("< Authorization: Bearer abc")
    assert logging.getLogger("hub").isEnabledFor(logging.DEBUG)
    assert stream.getvalue() == ""
