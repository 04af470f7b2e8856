"""Many adapters' low-rank updates side by side, so that one forward pass serves rows of any of them.

For each adapted module and rank bucket there is a table `A [slots, in, rank]` and a table `B [slots, rank, out]`. Each
row of a batch picks its slot; slot 0 holds zeros: no adapter. What is done with the tables is in `updates`.

A slot is lent, not given: a `Lease` names the slot and its version, is pinned while a batch is in flight, and is
checked against the slot's present owner when the batch is planned. A slot that was reassigned therefore cannot answer
for its former owner.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graftwork.errors import SettingsInvalid
from graftwork.serving.delta import Delta, LowRank
from graftwork.serving.keys import AdapterKey
from graftwork.serving.stats import Meter
from graftwork.serving.updates import Application, Plan, Segments, segments_of


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

    @property
    def size(self) -> int:
        return len(self.owners) - 1

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

    def let_go(self) -> None:
        """Free the tables if no slot is taken; they are made anew when one is."""
        if len(self._free) == self.size:
            self.tables.clear()

    def _table(self, like: Tensor, device: torch.device) -> Tensor:
        table = torch.empty((len(self.owners), *like.shape), dtype=like.dtype, device=device)
        table[0] = 0
        return table


@dataclass(slots=True)
class _Resident:
    lease: Lease
    nbytes: int
    used: float = 0.0
    pins: int = 0
    kept: bool = False


class StackedAdapters:
    """The slots of one backbone. For the engine's thread alone; counts may be read from any.

    Args:
        device: where the tables are.
        slots: most adapters of one rank bucket that are resident at once.
        nbytes: most bytes of resident adapters; one alone may exceed it.
        meter: counts loads and evictions.
        clock: seconds; tells how long an adapter was not used.
    """

    def __init__(
        self,
        *,
        device: torch.device,
        slots: int,
        nbytes: int,
        meter: Meter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._device = device
        self._slots = slots
        self._limit = nbytes
        self._meter = meter
        self._clock = clock
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
        resident.used = self._clock()
        resident.pins += 1
        return resident.lease

    def release(self, lease: Lease) -> None:
        """Give a pinned lease back; the adapter stays in its slots until another needs them."""
        self._residents[lease.key].pins -= 1

    def keep(self, key: AdapterKey, delta: Delta) -> None:
        """Put an adapter into slots for good.

        Raises:
            SettingsInvalid: no slot would be left for adapters that are not kept.
        """
        self._open_banks(delta)
        others = [other.lease for other in self._residents.values() if other.kept and other.lease.key != key]
        for rank in delta.buckets:
            kept = sum(rank in lease.slots for lease in others) + 1
            if kept >= self._banks[rank].size:
                raise SettingsInvalid(
                    f"{kept} pinned adapters of rank {rank} would leave no slot for any other; "
                    f"there are {self._banks[rank].size}",
                    remedy="Pin fewer adapters, or allow more slots (--slots, --slot-mb).",
                )
        lease = self.pin(key, delta)
        if lease is None:
            raise RuntimeError("an adapter was kept while a batch was in flight")
        self._residents[key].kept = True
        self.release(lease)

    def offload(self, before: float) -> int:
        """Let go of adapters that were not used since `before`, on the clock; returns how many."""
        idle = []
        for key, resident in self._residents.items():
            if resident.used >= before:
                break
            if not (resident.pins or resident.kept):
                idle.append(key)
        for key in idle:
            self._leave(key)
        for bank in self._banks.values() if idle else ():
            bank.let_go()
        self._meter.add(slot_offloads=len(idle))
        return len(idle)

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
        indices: dict[tuple[int, frozenset[AdapterKey]], tuple[Tensor, Segments]] = {}
        plan: dict[str, list[Application]] = {}
        for (rank, module), keys in users.items():
            group = (rank, frozenset(keys))
            if group not in indices:
                slots = self._indices(rows, *group)
                indices[group] = slots, segments_of(slots)
            plan.setdefault(module, []).append(Application(*self._banks[rank].tables[module], *indices[group]))
        return plan

    def _open_banks(self, delta: Delta) -> None:
        for rank, updates in delta.buckets.items():
            if rank not in self._banks:
                each = sum(update.a.nbytes + update.b.nbytes for update in updates.values())
                self._banks[rank] = _Bank(rank, max(1, min(self._slots, self._limit // each)))

    def _load(self, key: AdapterKey, delta: Delta) -> _Resident | None:
        self._open_banks(delta)
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
        held = 0
        for key, resident in self._residents.items():
            over = nbytes + delta.nbytes > self._limit
            if not short and not over:
                break
            if resident.kept and not resident.pins:
                held += 1
                continue
            if resident.pins or not (over or short & resident.lease.slots.keys()):
                continue
            evicted.append(key)
            freed.update(resident.lease.slots.keys())
            nbytes -= resident.nbytes
            short -= freed.keys()
        if short or (nbytes + delta.nbytes > self._limit and len(evicted) + held < len(self._residents)):
            return False
        for key in evicted:
            self._leave(key)
        self._meter.add(slot_evictions=len(evicted))
        return True

    def _leave(self, key: AdapterKey) -> None:
        resident = self._residents.pop(key)
        self.nbytes -= resident.nbytes
        for rank, (slot, _) in resident.lease.slots.items():
            self._banks[rank].give_back(slot)

    def _check(self, lease: Lease) -> None:
        for rank, (slot, version) in lease.slots.items():
            bank = self._banks[rank]
            if bank.owners[slot] != lease.key or bank.versions[slot] != version:
                raise SlotReassigned(f"slot {slot} of rank {rank} no longer holds adapter {lease.key.digest[:12]}")

    def _indices(self, rows: Sequence[Lease | None], rank: int, keys: frozenset[AdapterKey]) -> Tensor:
        slots = [lease.slots[rank][0] if lease is not None and lease.key in keys else 0 for lease in rows]
        return torch.tensor(slots, device=self._device)
