"""What it takes to answer many tenants: a deployment for each, or one engine that they share."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from graftwork.evaluation.results import Frozen

_MOST_TENANTS = 100_000  # looked at for the break-even
_ONE_BY_ONE = 1_000


@dataclass(frozen=True)
class Load:
    """What is asked, and what answering takes.

    Attributes:
        tenants: how many.
        rate: texts a second, of all tenants together.
        single: seconds of a step with one text.
        batched: seconds a text in full batches.
        process_bytes: of a process with the base model, ready to answer.
        adapter_bytes: of an adapter in memory.
    """

    tenants: int
    rate: float
    single: float
    batched: float
    process_bytes: int
    adapter_bytes: int


@dataclass(frozen=True)
class Instance:
    """What is hired.

    Attributes:
        memory_bytes: of it.
        monthly: price a month; None where it is not known.
        busy: share of its time it may compute, so that there is room for peaks.
        free: share of its memory that processes may have.
    """

    memory_bytes: int
    monthly: float | None
    busy: float = 0.6
    free: float = 0.9


class Hosting(Frozen):
    """A way to host all tenants.

    Attributes:
        name: of the way.
        processes: that answer.
        instances: that are hired.
        memory_bytes: of all processes together.
        utilisation: share of the instances' time that is computed.
        monthly: price a month; None where no price is known.
    """

    name: str
    processes: int
    instances: int
    memory_bytes: int
    utilisation: float
    monthly: float | None


def dedicated(load: Load, instance: Instance) -> Hosting:
    """An instance for each tenant, more for one that asks more than an instance answers.

    A text of a tenant seldom finds another one of the same tenant waiting, so each is a step by itself; at high rates
    a deployment batches as the engine does.
    """
    rate = load.rate / load.tenants
    each = max(1, math.ceil(rate * load.batched / instance.busy), _by_memory(_alone(load), instance))
    return _hosting("an instance each", load, instance, processes=load.tenants * each, instances=load.tenants * each)


def packed(load: Load, instance: Instance) -> Hosting:
    """A process for each tenant, as many on an instance as its memory and its time allow."""
    room = int(instance.free * instance.memory_bytes // _alone(load))
    most = dedicated(load, instance).instances
    by_memory = math.ceil(load.tenants / room) if room else most
    instances = min(most, max(by_memory, math.ceil(_work_apart(load) / instance.busy)))
    processes = max(load.tenants, instances)
    return _hosting("a process each, packed", load, instance, processes=processes, instances=instances)


def shared(load: Load, instance: Instance) -> Hosting:
    """One engine for all tenants, in as many processes as their texts and their adapters' bytes want."""
    room = instance.free * instance.memory_bytes - load.process_bytes
    adapters = load.tenants * load.adapter_bytes
    by_memory = math.ceil(adapters / room) if room > 0 else load.tenants
    count = max(1, by_memory, math.ceil(load.rate * load.batched / instance.busy))
    return Hosting(
        name="one shared engine",
        processes=count,
        instances=count,
        memory_bytes=count * load.process_bytes + adapters,
        utilisation=min(1.0, load.rate * load.batched / count),
        monthly=None if instance.monthly is None else count * instance.monthly,
    )


def break_even(load: Load, instance: Instance, *, pack: bool) -> int | None:
    """The fewest tenants for whom sharing takes fewer instances, each asking as much as now; None if never.

    Beyond 1,000 tenants only doublings are looked at, and what lies before the first that pays.

    Args:
        load: what is asked now.
        instance: what is hired.
        pack: against processes that share instances; else against an instance each.
    """
    other = packed if pack else dedicated
    each = load.rate / load.tenants

    def pays(tenants: int) -> bool:
        now = replace(load, tenants=tenants, rate=each * tenants)
        return shared(now, instance).instances < other(now, instance).instances

    # Instances are whole, so what pays for eleven may not pay for sixteen: few tenants are looked at one by one.
    found = next(filter(pays, range(1, _ONE_BY_ONE + 1)), None)
    tenants = 2 * _ONE_BY_ONE
    while found is None and tenants <= _MOST_TENANTS:
        if pays(tenants):
            found = next(filter(pays, range(tenants // 2, tenants + 1)))
        tenants *= 2
    return found


def _hosting(name: str, load: Load, instance: Instance, *, processes: int, instances: int) -> Hosting:
    return Hosting(
        name=name,
        processes=processes,
        instances=instances,
        memory_bytes=processes * _alone(load),
        utilisation=min(1.0, _work_apart(load) / instances),
        monthly=None if instance.monthly is None else instances * instance.monthly,
    )


def _alone(load: Load) -> int:
    return load.process_bytes + load.adapter_bytes


def _work_apart(load: Load) -> float:
    """Seconds of computing a second where tenants do not share.

    A text is a step by itself until a process is always busy with such steps; from then on those that wait are batched.
    """
    rate = load.rate / load.tenants
    return load.tenants * max(min(rate * load.single, 1.0), rate * load.batched)


def _by_memory(nbytes: int, instance: Instance) -> int:
    return 1 if nbytes <= instance.free * instance.memory_bytes else math.ceil(nbytes / instance.memory_bytes)
