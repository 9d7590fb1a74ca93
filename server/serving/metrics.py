"""What Prometheus reads: requests, how long they take, which model answers, and what keeps a newer one out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from server.serving.champion import Champion
    from server.serving.keys import Keys

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_EXAMPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})


class Metrics:
    """One application's numbers."""

    def __init__(self, champion: Champion, keys: Keys | None) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "flops_requests", "Requests answered.", ("method", "path", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "flops_request_seconds",
            "From a request's headers to its answer.",
            ("path",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._examples = Histogram(
            "flops_batch_examples",
            "Examples in an answered request.",
            ("path",),
            buckets=_EXAMPLES,
            registry=self._registry,
        )
        self._registry.register(_State(champion, keys))
        ProcessCollector(registry=self._registry)

    def answered(self, method: str, path: str, status: int, seconds: float, examples: int) -> None:
        """Count a request.

        Args:
            method: as it was sent.
            path: the route's template: what a client makes up must not become a series.
            status: of the answer.
            seconds: that it took.
            examples: that it had predicted; 0 for none.
        """
        self._requests.labels(method if method in _METHODS else "other", path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)
        if examples:
            self._examples.labels(path).observe(examples)

    def text(self) -> bytes:
        """Return all in Prometheus' text format."""
        return generate_latest(self._registry)


class _State(Collector):
    """The champion as it is when it is asked."""

    def __init__(self, champion: Champion, keys: Keys | None) -> None:
        self._champion, self._keys = champion, keys

    def collect(self) -> Iterator[Metric]:
        champion, served = self._champion, self._champion.served
        info = GaugeMetricFamily("flops_model_info", "The model that answers.", labels=("model", "version"))
        if served is not None:
            info.add_metric((served.version.name, str(served.version.version)), 1)
        yield info
        number = 0 if served is None else served.version.version
        yield GaugeMetricFamily("flops_model_version", "The version that answers; 0 for none.", number)
        yield CounterMetricFamily("flops_model_loads", "Models loaded.", champion.loads)
        yield CounterMetricFamily("flops_model_load_failures", "Models that did not load.", champion.failures)
        yield GaugeMetricFamily(
            "flops_newer_champion_failed", "1 where the champion cannot be loaded.", int(champion.failed is not None)
        )
        yield GaugeMetricFamily("flops_registry_answers", "1 where the registry answers.", int(champion.answers))
        if self._keys is not None:
            yield GaugeMetricFamily(
                "flops_keys_broken", "1 where the file of keys cannot be used.", int(bool(self._keys.problem))
            )
