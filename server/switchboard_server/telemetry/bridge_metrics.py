"""What the WebSocket bridge counts."""

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from switchboard_server.telemetry.families import QuietCollector, counted_by


class BridgeMetrics(QuietCollector):
    """Counts by plain arithmetic, in the event loop's thread.

    Attributes:
        connections: WebSocket connections that are open, those included that have yet to say who
            they are.
        refused: Handshakes that were refused, by the HTTP status.
        timed_out: Connections that were cut because they sent no whole request in time.
        frames_in: Frames from clients, by type; "message" for those that carry one, "" for what is
            no frame.
        frames_out: Frames to clients.
        errors: Errors that frames were answered with, by reason.
        closed: Connections that ended, by close code; "client" for the codes that clients make up.
    """

    def __init__(self) -> None:
        self.connections = 0
        self.refused: Counter[int] = Counter()
        self.timed_out = 0
        self.frames_in: Counter[str] = Counter()
        self.frames_out = 0
        self.errors: Counter[str] = Counter()
        self.closed: Counter[str] = Counter()

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        yield GaugeMetricFamily(
            "switchboard_websockets_open", "WebSocket connections that are open.", self.connections
        )
        yield CounterMetricFamily(
            "switchboard_websocket_frames_sent", "Frames sent to browsers.", self.frames_out
        )
        yield CounterMetricFamily(
            "switchboard_bridge_requests_timed_out",
            "Connections of the bridge that sent no whole request in time.",
            self.timed_out,
        )
        counted: tuple[tuple[str, str, str, Counter[int] | Counter[str]], ...] = (
            ("websockets_refused", "Handshakes that were refused.", "status", self.refused),
            ("websocket_frames_received", "Frames from browsers.", "type", self.frames_in),
            ("websocket_frame_errors", "Frames answered with an error.", "reason", self.errors),
            ("websockets_closed", "WebSocket connections that ended.", "code", self.closed),
        )
        for name, text, label, counter in counted:
            counts = {str(value): count for value, count in counter.items()}
            yield counted_by(label, f"switchboard_{name}", text, counts)
