"""Adapters in host memory: read by digest on demand, checked strictly, kept within a bound and not for ever.

Everything that could make an adapter answer wrongly is found here, before its first answer: another base, tokenizer
or prompt, tensors that do not fit. What fails is not remembered, so that a repaired artifact answers at its next
request. A load ends with an adapter in the form that slots take, so that the engine's thread has only to copy it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from graftwork.backbones.belonging import check_belongs
from graftwork.errors import ArtifactInvalid, GraftworkError, ModelUnsupported, NotFound, SettingsInvalid
from graftwork.registry.chain import MOST_ANCESTORS, parent_missing, too_deep
from graftwork.registry.tasks import TaskColumns, columns_of, temperatures_of
from graftwork.serving.cache import embedding_domain
from graftwork.serving.delta import CONFIG, TENSORS, Delta, Place, read_delta, stacked_delta
from graftwork.serving.heads import Head, MlpHead
from graftwork.serving.keys import AdapterKey
from graftwork.serving.loading import LoaderPool, SingleFlight
from graftwork.serving.own import OwnDelta, own_reader
from graftwork.serving.stats import Meter

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
    from graftwork.registry.artifact import Artifact
    from graftwork.registry.manifest import Manifest, Pooling

_HEAD = "head.safetensors"


@dataclass(frozen=True, eq=False, slots=True)
class LoadedAdapter:
    """An adapter ready to be put into slots.

    Attributes:
        key: its identity.
        labels: label names in the order of the head's rows.
        tasks: which of these rows are whose, when it answers several tasks.
        pooling: how token vectors become one.
        max_length: tokens kept of a text.
        head: its classifier.
        delta: its updates in a shared batch; None when it has none.
        own: what its rows run with when they run as a group of their own; None when only a head was trained, or when
            it has updates.
        shares: the ancestor whose updates these are, when the adapter itself has none; None when they are its own.
        domain: of the vectors that its head sees, in the cache.
        unpaid: seconds of the processor that loading it took, until a tenant is charged for them.
    """

    key: AdapterKey
    labels: tuple[str, ...]
    pooling: Pooling
    max_length: int
    head: Head
    delta: Delta | None
    own: OwnDelta | None = None
    shares: AdapterKey | None = None
    domain: int = 0
    tasks: tuple[TaskColumns, ...] = ()
    unpaid: list[float] = field(default_factory=list)

    @property
    def body(self) -> AdapterKey:
        """What its vectors and slots are known by: adapters that differ in their heads only have the same."""
        return self.shares or self.key

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors in host memory, those it shares with an ancestor among them."""
        return self.head.nbytes + self.delta_bytes

    @property
    def delta_bytes(self) -> int:
        """Bytes of its updates."""
        return sum(each.nbytes for each in (self.delta, self.own) if each is not None)

    @property
    def split(self) -> int | None:
        """Index of the first layer that is not the base's own; None when all are."""
        return next((each.split for each in (self.delta, self.own) if each is not None), None)


@dataclass(slots=True)
class _Kept:
    adapter: LoadedAdapter
    used: float


class AdapterCache:
    """Adapters by key. Every method may be called from any thread.

    Args:
        read_artifact: reads an artifact by digest and verifies its bytes.
        pool: threads that load.
        nbytes: most bytes kept; what requests hold at the moment is theirs and does not count.
        meter: counts loads and evictions.
        clock: seconds; tells how long an adapter was not asked for.
    """

    def __init__(
        self,
        read_artifact: Callable[[str], Artifact],
        *,
        pool: LoaderPool,
        nbytes: int,
        meter: Meter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_artifact = read_artifact
        self._limit = nbytes
        self._meter = meter
        self._clock = clock
        self._kept: OrderedDict[AdapterKey, _Kept] = OrderedDict()  # the one not asked for longest first
        self._pinned: dict[AdapterKey, LoadedAdapter] = {}
        self._lock = threading.Lock()
        self._sharing: Counter[AdapterKey] = Counter()  # adapters kept, by what computes their vectors
        self._loads: SingleFlight[AdapterKey, LoadedAdapter] = SingleFlight(pool)
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._kept) + len(self._pinned)

    def get(self, key: AdapterKey) -> LoadedAdapter | None:
        """The adapter if it is in memory; never waits for a load."""
        return self.get_each([key])[0]

    def get_each(self, keys: Sequence[AdapterKey]) -> list[LoadedAdapter | None]:
        """The same for several."""
        with self._lock:
            now = self._clock()
            return [self._get(key, now) for key in keys]

    def _get(self, key: AdapterKey, now: float) -> LoadedAdapter | None:
        kept = self._kept.get(key)
        if kept is None:
            return self._pinned.get(key)
        self._touch(kept, now)
        return kept.adapter

    def load(self, key: AdapterKey, backbone: Backbone, places: Mapping[str, Place]) -> Future[LoadedAdapter]:
        """Load an adapter; callers that come while it loads share the one load.

        The future may end with `StorageTimeout`; a load that is late is kept all the same when it has come.
        """
        return self._loads.run(key, lambda: self._load(key, backbone, places))

    def pin(self, adapter: LoadedAdapter) -> None:
        """Keep an adapter for good, within the bound on bytes.

        Raises:
            SettingsInvalid: the pinned ones alone would be over the bound.
        """
        with self._lock:
            pinned = sum(other.nbytes for other in self._pinned.values()) + adapter.nbytes
            if pinned > self._limit and adapter.key not in self._pinned:
                raise SettingsInvalid(
                    f"the pinned adapters take {pinned:,} bytes of host memory; {self._limit:,} are allowed",
                    remedy="Pin fewer adapters, or allow more host memory (--host-mb).",
                )
            self._forget(adapter.key)
            if adapter.key not in self._pinned:
                self._count(adapter)
            self._pinned[adapter.key] = adapter
            evicted = self._make_room()
        self._meter.add(host_evictions=evicted)

    def offload(self, before: float) -> int:
        """Let go of those that nobody asked for since `before`, on the clock; returns how many."""
        offloaded = 0
        with self._lock:
            while self._kept and next(iter(self._kept.values())).used < before:
                self._forget(next(iter(self._kept)))
                offloaded += 1
        self._meter.add(host_offloads=offloaded)
        return offloaded

    def _load(self, key: AdapterKey, backbone: Backbone, places: Mapping[str, Place], above: int = 0) -> LoadedAdapter:
        kept = self.get(key)
        if kept is not None:
            return kept
        if above > MOST_ANCESTORS:
            raise too_deep()
        start, busy = time.perf_counter(), time.thread_time()
        failure: str | None = GraftworkError.code
        try:
            artifact = self._read_artifact(key.digest)
            parent = None
            if artifact.manifest.parent is not None:
                parent = self._load_parent(AdapterKey(artifact.manifest.parent, key.base), backbone, places, above + 1)
            adapter = load_adapter(key, artifact, backbone, places, parent)
            adapter.unpaid.append(time.thread_time() - busy)
            failure = None
        except GraftworkError as error:
            failure = error.code
            raise
        finally:
            self._meter.loaded(time.perf_counter() - start, failure)
        return self._keep(adapter)

    def _load_parent(
        self, key: AdapterKey, backbone: Backbone, places: Mapping[str, Place], above: int
    ) -> LoadedAdapter:
        """In the thread that loads the child: one that waited for another could wait for ever."""
        try:
            return self._load(key, backbone, places, above)
        except NotFound as error:
            raise parent_missing(key.digest) from error

    def _keep(self, adapter: LoadedAdapter) -> LoadedAdapter:
        """What is kept under its key: another, when a parent was loaded for two children at once."""
        with self._lock:
            if adapter.key in self._pinned:
                return self._pinned[adapter.key]
            if adapter.key in self._kept:
                return self._kept[adapter.key].adapter
            now = self._clock()
            self._kept[adapter.key] = kept = _Kept(adapter, now)
            self._touch(kept, now)
            self._count(adapter)
            evicted = self._make_room()
        self._meter.add(host_evictions=evicted)
        return adapter

    def _touch(self, kept: _Kept, now: float) -> None:
        """Whose updates others share leaves after all of them: it would be read again, and be there twice."""
        kept.used = now
        self._kept.move_to_end(kept.adapter.key)
        if kept.adapter.shares is not None and (shared := self._kept.get(kept.adapter.shares)) is not None:
            shared.used = now
            self._kept.move_to_end(shared.adapter.key)

    def _make_room(self) -> int:
        evicted = 0
        while self.nbytes > self._limit and self._kept:
            self._forget(next(iter(self._kept)))
            evicted += 1
        return evicted

    def _forget(self, key: AdapterKey) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._discount(kept.adapter)

    def _count(self, adapter: LoadedAdapter) -> None:
        """Updates that several share count once, as long as one of them is kept."""
        self.nbytes += adapter.head.nbytes
        if not self._sharing[adapter.body]:
            self.nbytes += adapter.delta_bytes
        self._sharing[adapter.body] += 1

    def _discount(self, adapter: LoadedAdapter) -> None:
        self.nbytes -= adapter.head.nbytes
        self._sharing[adapter.body] -= 1
        if not self._sharing[adapter.body]:
            del self._sharing[adapter.body]
            self.nbytes -= adapter.delta_bytes


def load_adapter(
    key: AdapterKey,
    artifact: Artifact,
    backbone: Backbone,
    places: Mapping[str, Place],
    parent: LoadedAdapter | None = None,
) -> LoadedAdapter:
    """Make an artifact ready for a backbone.

    Args:
        key: what was asked for.
        artifact: what was read.
        backbone: the base it shall run on.
        places: the backbone's modules that can be adapted.
        parent: the adapter it stands on, loaded; None for a child of the base itself.

    Raises:
        BaseMismatch: it was made for another base, tokenizer, prompt or shape.
        ArtifactInvalid: its bytes or tensors are not what they should be.
    """
    manifest = artifact.manifest
    _check_asked_for(key, artifact)
    check_belongs(manifest, backbone)
    artifact.check()
    _check_parent(manifest, parent)
    head = _read_head(artifact.files[_HEAD], manifest, backbone.device)
    delta, own = _read_changes(artifact, backbone, places)
    shares = None
    if parent is not None and own is not None:
        raise _not_chained("it changes the base in another way than by updates that add up")
    if parent is not None and parent.delta is not None:
        shares = parent.body if delta is None else None
        delta = parent.delta if delta is None else stacked_delta(parent.delta, delta)
    tasks = columns_of(manifest)
    adapter = LoadedAdapter(
        key, manifest.labels, manifest.pooling, manifest.max_length, head, delta, own, shares, tasks=tasks
    )
    if adapter.split is not None and adapter.split < manifest.split:
        raise ArtifactInvalid(
            f"layer {adapter.split} is adapted, but the manifest says that all below {manifest.split} are the base's",
            remedy="Train and publish it again.",
        )
    return replace(adapter, domain=embedding_domain(backbone, adapter, manifest.pooling))


def _check_asked_for(key: AdapterKey, artifact: Artifact) -> None:
    """Refuse another artifact than was asked for, and one that is no classifier."""
    if artifact.digest != key.digest:
        raise ArtifactInvalid(
            f"another adapter was read than was asked for: {artifact.digest[:12]} instead of {key.digest[:12]}",
            remedy="Run `graft fsck`.",
        )
    if artifact.manifest.purpose != "classification":
        raise ModelUnsupported(
            "this adapter generates text, and this server classifies",
            remedy="Ask it with graft predict, or serve it with vLLM or LoRAX: graft show tells the commands.",
        )


def _read_changes(
    artifact: Artifact, backbone: Backbone, places: Mapping[str, Place]
) -> tuple[Delta | None, OwnDelta | None]:
    """What an adapter changes of the base: updates that share a batch, or what its rows run with by themselves."""
    if not artifact.manifest.tensors:
        return None, None
    config, tensors = artifact.files[CONFIG], artifact.files[TENSORS]
    read_own = own_reader(config)
    if read_own is None:
        return read_delta(config, tensors, places, backbone.dtype), None
    return None, read_own(config, tensors, backbone)


def _check_parent(manifest: Manifest, parent: LoadedAdapter | None) -> None:
    """Refuse another parent than the one the child was trained on, and one whose updates do not add up."""
    found = None if parent is None else parent.key.digest
    if found != manifest.parent:
        raise _not_chained(f"it stands on {str(manifest.parent)[:12]}, not on {str(found)[:12]}")
    if parent is not None and parent.own is not None:
        raise _not_chained("its parent changes the base in another way than by updates that add up")


def _not_chained(why: str) -> ArtifactInvalid:
    return ArtifactInvalid(
        f"the adapter cannot answer on top of its parent: {why}",
        remedy="Train it again, on a parent made by feature extraction or LoRA, or on the base model.",
    )


def _read_head(content: bytes, manifest: Manifest, device: torch.device) -> Head:
    from safetensors.torch import load

    tensors = load(content)
    weight, bias = tensors["head.weight"].to(device), tensors["head.bias"].to(device)
    if manifest.hidden:
        return MlpHead(tensors["hidden.weight"], tensors["hidden.bias"], weight, bias, manifest.temperature)
    return Head(weight, bias, temperatures_of(manifest) if manifest.tasks else manifest.temperature)
