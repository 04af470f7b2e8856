"""Metrics for Prometheus, in a registry of the application's own.

Labels are bounded: routes are templates, methods a short list, error codes those of `graftwork.errors`, and of tenants
those that use most have a label each, the others one together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from graftwork.serving.stats import Histogram

if TYPE_CHECKING:
    from graftwork.serving.engine import Engine
    from graftwork.serving.stats import Distribution

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_COUNTS = {
    "requests": "Requests admitted by the engine.",
    "answers": "Requests answered.",
    "known_answers": "Requests answered at once, because the vectors of all their texts were known.",
    "rows": "Texts computed for an answer.",
    "computed_rows": "Rows run through a tail; equal text and adapter in one batch are computed once.",
    "trunk_rows": "Unique texts whose trunk was shared.",
    "tokens": "Tokens of the rows, padding not counted.",
    "padded_tokens": "Tokens computed in tails, padding counted.",
    "batches": "Batches computed.",
    "compiled_batches": "Passes through a network, or a part of it, that ran compiled code.",
    "eager_batches": "Passes that ran uncompiled, while compiled code was not there.",
    "reruns": "Batches that failed and were run again row by row.",
    "loads": "Adapters loaded from the blob store.",
    "cancelled": "Requests whose callers left.",
    "slot_loads": "Adapters copied into slots.",
    "slot_evictions": "Adapters that lost their slots to others.",
    "host_evictions": "Adapters that left host memory for others.",
    "slot_offloads": "Adapters that left their slots because nobody asked for them.",
    "host_offloads": "Adapters that left host memory because nobody asked for them.",
    "embedding_hits": "Pooled vectors that had been computed before.",
    "embedding_misses": "Pooled vectors that had to be computed.",
    "trunk_hits": "Texts whose activations below the adapters had been computed before.",
    "trunk_misses": "Texts whose activations below the adapters had to be computed.",
    "cache_evictions": "Activations that left the cache for others.",
}
_COUNTS_BY_LABEL = {
    "load_failures": ("code", "Loads that failed, by error code."),
    "refusals": ("code", "Requests that ended with an error, by error code."),
    "tenant_texts": ("tenant", "Texts answered, by tenant."),
    "tenant_tokens": ("tenant", "Tokens of the texts answered, by tenant."),
}
_NOW = {
    "queue_depth": "Texts admitted and not answered.",
    "resident_adapters": "Adapters in slots.",
    "resident_bytes": "Bytes of adapters in slots.",
    "host_adapters": "Adapters in host memory.",
    "host_bytes": "Bytes of adapters in host memory.",
    "bases": "Base models loaded.",
    "cache_entries": "Activations in the cache.",
    "cache_bytes": "Bytes of activations in the cache.",
}
_DISTRIBUTIONS = {
    "batch_rows": "Rows in a batch.",
    "batch_fill": "Share of the token budget that a batch filled.",
    "queue_seconds": "Time from admission to the first batch.",
    "load_seconds": "Time to load an adapter from the blob store.",
}


class HttpMetrics(Collector):
    """Counts and durations of requests by route; counted on the event loop alone, and so without a lock."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._seconds: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(_SECONDS))

    def observe(self, route: str, method: str, status: int, seconds: Sequence[float]) -> None:
        """Count requests by the time that each took."""
        if seconds:
            self._requests[route, method if method in _METHODS else "OTHER", status] += len(seconds)
            observe = self._seconds[route].observe
            for each in seconds:
                observe(each)

    def collect(self) -> Iterator[Metric]:
        """Both, as they are now."""
        words = "Requests answered; status 499 is a client that left."
        requests = CounterMetricFamily("graftwork_http_requests", words, labels=("route", "method", "status"))
        for (route, method, status), count in tuple(self._requests.items()):
            requests.add_metric((route, method, str(int(status))), count)
        yield requests
        words = "Time from a request's headers to the end of its answer."
        seconds: dict[tuple[str, ...], Distribution] = {
            (route,): histogram.snapshot() for route, histogram in tuple(self._seconds.items())
        }
        yield _histogram("graftwork_http_request_seconds", words, seconds, ("route",))

    def describe(self) -> Iterator[Metric]:
        """Nothing: the names are known without asking."""
        return iter(())


class EngineCollector(Collector):
    """The engine's own numbers, one consistent snapshot a scrape."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Every field of `EngineStats` as `graftwork_engine_<field>`."""
        stats = self._engine.stats()
        for name, words in _COUNTS.items():
            yield CounterMetricFamily(_name(name), words, value=getattr(stats, name))
        for name, (label, words) in _COUNTS_BY_LABEL.items():
            family = CounterMetricFamily(_name(name), words, labels=(label,))
            for value, count in getattr(stats, name).items():
                family.add_metric((value,), count)
            yield family
        for name, words in _NOW.items():
            yield GaugeMetricFamily(_name(name), words, value=getattr(stats, name))
        for name, words in _DISTRIBUTIONS.items():
            yield _histogram(_name(name), words, {(): getattr(stats, name)})
        phases: dict[tuple[str, ...], Distribution] = {(phase,): spent for phase, spent in stats.step_seconds.items()}
        yield _histogram(_name("step_seconds"), "Time of a batch's phases.", phases, ("phase",))

    def describe(self) -> Iterator[Metric]:
        """Nothing: the names are known without asking the engine."""
        return iter(())


def _name(field: str) -> str:
    return f"graftwork_engine_{field}"


def _histogram(
    name: str, words: str, found: dict[tuple[str, ...], Distribution], labels: tuple[str, ...] = ()
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, words, labels=labels)
    for values, distribution in found.items():
        buckets = [(_bound(bound), count) for bound, count in distribution.cumulative()]
        family.add_metric(values, buckets, sum_value=distribution.total)
    return family


def _bound(bound: float) -> str:
    return "+Inf" if bound == float("inf") else f"{bound:g}"
