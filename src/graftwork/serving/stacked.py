"""Many adapters' low-rank updates side by side, so that one forward pass serves rows of any of them.

For each adapted module and rank bucket there is a table `A [slots, in, rank]` and a table `B [slots, rank, out]`. Each
row of a batch picks its slot; slot 0 holds zeros: no adapter. What is done with the tables is in `updates`.

A slot is lent, not given: a `Lease` names the slot and its version, is pinned while a batch is in flight, and is
checked against the slot's present owner when the batch is planned. A slot that was reassigned therefore cannot answer
for its former owner.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graftwork.serving.delta import Delta, LowRank
from graftwork.serving.request import AdapterKey
from graftwork.serving.stats import Meter
from graftwork.serving.updates import Application, Plan


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to use an adapter's slots until it is given back.

    Attributes:
        key: the adapter.
        slots: by rank bucket, the slot and the slot's version.
        modules: by rank bucket, the modules that are adapted.
    """

    key: AdapterKey
    slots: Mapping[int, tuple[int, int]]
    modules: Mapping[int, frozenset[str]]


class SlotReassigned(RuntimeError):
    """A lease was used after its slot went to another adapter: a fault in the engine, never the user's."""


class _Bank:
    """The slots of one rank bucket."""

    def __init__(self, rank: int, slots: int) -> None:
        self.rank = rank
        self.owners: list[AdapterKey | None] = [None] * (slots + 1)
        self.versions = [0] * (slots + 1)
        self.tables: dict[str, tuple[Tensor, Tensor]] = {}
        # The lowest free slot is taken first: memory that was never written is never really allocated on the CPU.
        self._free = list(range(1, slots + 1))

    @property
    def full(self) -> bool:
        return not self._free

    def take(self, key: AdapterKey, updates: Mapping[str, LowRank], device: torch.device) -> tuple[int, int]:
        slot = self._free[0]
        for name, update in updates.items():
            if name not in self.tables:
                self.tables[name] = (self._table(update.a, device), self._table(update.b, device))
            a, b = self.tables[name]
            a[slot].copy_(update.a)
            b[slot].copy_(update.b)
        # Last, so that a copy that failed has taken nothing.
        heapq.heappop(self._free)
        self.owners[slot] = key
        self.versions[slot] += 1
        return slot, self.versions[slot]

    def give_back(self, slot: int) -> None:
        self.owners[slot] = None
        heapq.heappush(self._free, slot)

    def _table(self, like: Tensor, device: torch.device) -> Tensor:
        table = torch.empty((len(self.owners), *like.shape), dtype=like.dtype, device=device)
        table[0] = 0
        return table


@dataclass(slots=True)
class _Resident:
    lease: Lease
    nbytes: int
    pins: int = 0


class StackedAdapters:
    """The slots of one backbone. For the engine's thread alone; counts may be read from any.

    Args:
        device: where the tables are.
        slots: most adapters of one rank bucket that are resident at once.
        nbytes: most bytes of resident adapters; one alone may exceed it.
        meter: counts loads and evictions.
    """

    def __init__(self, *, device: torch.device, slots: int, nbytes: int, meter: Meter) -> None:
        self._device = device
        self._slots = slots
        self._limit = nbytes
        self._meter = meter
        self._banks: dict[int, _Bank] = {}
        self._residents: OrderedDict[AdapterKey, _Resident] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._residents)

    def pin(self, key: AdapterKey, delta: Delta) -> Lease | None:
        """Put an adapter into slots, or find it there, and keep it until `release`.

        Returns:
            None when every slot it could have is pinned: release others first.
        """
        resident = self._residents.get(key)
        if resident is None:
            resident = self._load(key, delta)
            if resident is None:
                return None
        self._residents.move_to_end(key)
        resident.pins += 1
        return resident.lease

    def release(self, lease: Lease) -> None:
        """Give a pinned lease back; the adapter stays in its slots until another needs them."""
        self._residents[lease.key].pins -= 1

    def plan(self, rows: Sequence[Lease | None]) -> Plan:
        """Say what each adapted module has to add for a batch.

        Args:
            rows: the lease of each row; None for rows without an adapter.

        Returns:
            By module's name; empty when no row has an adapter.

        Raises:
            SlotReassigned: a lease is not what its slot holds.
        """
        leases = {lease.key: lease for lease in rows if lease is not None}
        for lease in leases.values():
            self._check(lease)
        users: dict[tuple[int, str], set[AdapterKey]] = {}
        for key, lease in leases.items():
            for rank, modules in lease.modules.items():
                for module in modules:
                    users.setdefault((rank, module), set()).add(key)
        # Most modules are adapted by the same adapters: their index tensors are made once.
        indices: dict[tuple[int, frozenset[AdapterKey]], Tensor] = {}
        plan: dict[str, list[Application]] = {}
        for (rank, module), keys in users.items():
            group = (rank, frozenset(keys))
            if group not in indices:
                indices[group] = self._indices(rows, *group)
            plan.setdefault(module, []).append(Application(*self._banks[rank].tables[module], indices[group]))
        return plan

    def _load(self, key: AdapterKey, delta: Delta) -> _Resident | None:
        for rank, updates in delta.buckets.items():
            if rank not in self._banks:
                each = sum(update.a.nbytes + update.b.nbytes for update in updates.values())
                self._banks[rank] = _Bank(rank, max(1, min(self._slots, self._limit // each)))
        if not self._make_room(delta):
            return None
        slots: dict[int, tuple[int, int]] = {}
        try:
            for rank, updates in delta.buckets.items():
                slots[rank] = self._banks[rank].take(key, updates, self._device)
        except BaseException:
            for rank, (slot, _) in slots.items():
                self._banks[rank].give_back(slot)
            raise
        lease = Lease(key, slots, {rank: frozenset(updates) for rank, updates in delta.buckets.items()})
        self._residents[key] = resident = _Resident(lease, delta.nbytes)
        self.nbytes += delta.nbytes
        self._meter.add(slot_loads=1)
        return resident

    def _make_room(self, delta: Delta) -> bool:
        """Evict, least recently used first, until the delta fits; nothing is evicted when it cannot."""
        evicted: list[AdapterKey] = []
        freed: Counter[int] = Counter()
        nbytes = self.nbytes
        short = {rank for rank in delta.buckets if self._banks[rank].full}
        for key, resident in self._residents.items():
            over = nbytes + delta.nbytes > self._limit
            if not short and not over:
                break
            if resident.pins or not (over or short & resident.lease.slots.keys()):
                continue
            evicted.append(key)
            freed.update(resident.lease.slots.keys())
            nbytes -= resident.nbytes
            short -= freed.keys()
        if short or (nbytes + delta.nbytes > self._limit and len(evicted) < len(self._residents)):
            return False
        for key in evicted:
            self._evict(key)
        return True

    def _evict(self, key: AdapterKey) -> None:
        resident = self._residents.pop(key)
        self.nbytes -= resident.nbytes
        for rank, (slot, _) in resident.lease.slots.items():
            self._banks[rank].give_back(slot)
        self._meter.add(slot_evictions=1)

    def _check(self, lease: Lease) -> None:
        for rank, (slot, version) in lease.slots.items():
            bank = self._banks[rank]
            if bank.owners[slot] != lease.key or bank.versions[slot] != version:
                raise SlotReassigned(f"slot {slot} of rank {rank} no longer holds adapter {lease.key.digest[:12]}")

    def _indices(self, rows: Sequence[Lease | None], rank: int, keys: frozenset[AdapterKey]) -> Tensor:
        slots = [lease.slots[rank][0] if lease is not None and lease.key in keys else 0 for lease in rows]
        return torch.tensor(slots, device=self._device)
