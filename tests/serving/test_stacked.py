from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from graftwork.backbones.backbone import TextBackbone
from graftwork.serving.delta import Delta, LowRank, Place
from graftwork.serving.request import AdapterKey
from graftwork.serving.stacked import Lease, SlotReassigned, StackedAdapters
from graftwork.serving.stats import Meter
from tests.serving.builders import Made, Spec

WIDE = 6


def key(name: str) -> AdapterKey:
    return AdapterKey(name, "base")


def delta(value: float, *, rank: int = 8, modules: tuple[str, ...] = ("one",)) -> Delta:
    """An update that adds `value` times the sum of the input to every output."""
    a = torch.zeros(WIDE, rank)
    b = torch.zeros(rank, WIDE)
    a[:, 0] = 1.0
    b[0] = value
    return Delta(0, {rank: {name: LowRank(a, b) for name in modules}})


def stack_of(modules: dict[str, nn.Module], *, slots: int = 2, nbytes: int = 1 << 20) -> tuple[StackedAdapters, Meter]:
    meter = Meter()
    places = {name: Place(module, WIDE, WIDE, 0) for name, module in modules.items()}
    return StackedAdapters(places, device=torch.device("cpu"), slots=slots, nbytes=nbytes, meter=meter), meter


@pytest.fixture
def linear() -> nn.Linear:
    return nn.Linear(WIDE, WIDE)


def pinned(stack: StackedAdapters, name: str, update: Delta) -> Lease:
    lease = stack.pin(key(name), update)
    assert lease is not None
    return lease


def run(stack: StackedAdapters, linear: nn.Module, inputs: torch.Tensor, rows: list[Lease | None]) -> torch.Tensor:
    with torch.inference_mode(), stack.applied(stack.plan(rows)):
        output: torch.Tensor = linear(inputs)
    return output


def test_each_row_gets_its_own_adapters_update(linear: nn.Linear) -> None:
    stack, _ = stack_of({"one": linear}, slots=4)
    inputs = torch.randn(4, 3, WIDE)
    one, two = pinned(stack, "one", delta(1.0)), pinned(stack, "two", delta(-2.0, rank=16))
    output = run(stack, linear, inputs, [two, None, one, two])
    sums = inputs.sum(dim=-1, keepdim=True)
    factors = torch.tensor([-2.0, 0.0, 1.0, -2.0]).reshape(4, 1, 1)
    torch.testing.assert_close(output, linear(inputs) + factors * sums)


def test_a_module_without_a_plan_is_left_alone(linear: nn.Linear) -> None:
    stack, _ = stack_of({"one": linear})
    inputs = torch.randn(2, 3, WIDE)
    plain = linear(inputs)
    stack.release(pinned(stack, "one", delta(1.0)))
    assert stack.plan([None, None]) == {}
    assert torch.equal(linear(inputs), plain)


def test_a_reassigned_slot_never_answers_for_its_former_owner(linear: nn.Linear) -> None:
    stack, _ = stack_of({"one": linear}, slots=1)
    former = pinned(stack, "former", delta(1.0))
    stack.release(former)
    present = pinned(stack, "present", delta(5.0))
    assert present.slots[8][0] == former.slots[8][0]
    with pytest.raises(SlotReassigned, match="no longer holds adapter former"):
        stack.plan([former])
    stack.release(present)
    # Even when the former owner comes back into the very same slot, its old lease stays void.
    again = pinned(stack, "former", delta(1.0))
    with pytest.raises(SlotReassigned):
        stack.plan([former])
    inputs = torch.randn(1, 2, WIDE)
    output = run(stack, linear, inputs, [again])
    torch.testing.assert_close(output, linear(inputs) + inputs.sum(dim=-1, keepdim=True))


def test_pinned_adapters_are_never_evicted(linear: nn.Linear) -> None:
    stack, meter = stack_of({"one": linear}, slots=2)
    first = pinned(stack, "first", delta(1.0))
    stack.release(pinned(stack, "second", delta(2.0)))
    third = pinned(stack, "third", delta(3.0))
    assert stack.pin(key("fourth"), delta(4.0)) is None
    assert meter.snapshot().slot_evictions == 1
    stack.plan([first, third])
    stack.release(first)
    assert stack.pin(key("fourth"), delta(4.0)) is not None


def test_the_least_recently_used_adapter_leaves_first(linear: nn.Linear) -> None:
    stack, meter = stack_of({"one": linear}, slots=2)
    for name in ("a", "b", "a", "c"):
        stack.release(pinned(stack, name, delta(1.0)))
    assert meter.snapshot().slot_loads == 3
    stack.release(pinned(stack, "a", delta(1.0)))
    assert meter.snapshot().slot_loads == 3
    stack.release(pinned(stack, "b", delta(1.0)))
    assert meter.snapshot().slot_loads == 4


def test_an_adapter_of_several_ranks_takes_a_slot_of_each_or_none(linear: nn.Linear) -> None:
    other = nn.Linear(WIDE, WIDE)
    stack, _ = stack_of({"one": linear, "two": other}, slots=1)
    mixed = Delta(0, {8: delta(1.0).buckets[8], 16: delta(2.0, rank=16, modules=("two",)).buckets[16]})
    narrow = pinned(stack, "narrow", delta(1.0))
    assert stack.pin(key("mixed"), mixed) is None
    assert len(stack) == 1
    stack.release(narrow)
    lease = pinned(stack, "mixed", mixed)
    assert set(lease.slots) == {8, 16}
    assert len(stack) == 1
    inputs = torch.randn(1, 2, WIDE)
    with torch.inference_mode(), stack.applied(stack.plan([lease])):
        one, two = linear(inputs), other(inputs)
    sums = inputs.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(one, linear(inputs) + sums)
    torch.testing.assert_close(two, other(inputs) + 2 * sums)


def test_resident_bytes_stay_within_their_bound(linear: nn.Linear) -> None:
    each = delta(1.0).nbytes
    stack, meter = stack_of({"one": linear}, slots=100, nbytes=3 * each)
    for index in range(10):
        stack.release(pinned(stack, str(index), delta(1.0, rank=8 if index % 2 else 16)))
        assert stack.nbytes <= 3 * each
    assert meter.snapshot().slot_evictions > 0


def test_a_copy_that_fails_takes_no_slot(linear: nn.Linear) -> None:
    stack, _ = stack_of({"one": linear}, slots=1)
    stack.release(pinned(stack, "good", delta(1.0)))
    broken = Delta(0, {8: {"one": LowRank(torch.zeros(WIDE + 1, 8), torch.zeros(8, WIDE))}})
    for _ in range(3):
        with pytest.raises(RuntimeError):
            stack.pin(key("broken"), broken)
    assert stack.pin(key("good"), delta(1.0)) is not None


def test_an_update_that_was_not_applied_is_an_error_and_not_the_bases_answer(linear: nn.Linear) -> None:
    other = nn.Linear(WIDE, WIDE)
    stack, _ = stack_of({"one": linear, "two": other})
    lease = pinned(stack, "both", delta(1.0, modules=("one", "two")))
    with pytest.raises(RuntimeError, match="did not run two"):
        run(stack, linear, torch.randn(1, 2, WIDE), [lease])


def test_closing_takes_the_hooks_off(linear: nn.Linear) -> None:
    stack, _ = stack_of({"one": linear})
    pinned(stack, "one", delta(1.0))
    assert linear._forward_hooks
    stack.close()
    assert not linear._forward_hooks


@settings(max_examples=50, deadline=None)
@given(asked=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5), min_size=1, max_size=12))
def test_answers_are_right_through_any_sequence_of_evictions(asked: list[list[int]]) -> None:
    linear = nn.Linear(WIDE, WIDE)
    stack, _ = stack_of({"one": linear}, slots=3)
    for batch in asked:
        waiting = list(batch)
        while waiting:
            leases: dict[int, Lease] = {}
            for number in waiting:
                lease = (
                    None if number in leases else stack.pin(key(str(number)), delta(number + 1.0, rank=8 << number % 2))
                )
                if lease is not None:
                    leases[number] = lease
            assert leases
            now = [number for number in waiting if number in leases]
            inputs = torch.randn(len(now), 2, WIDE)
            output = run(stack, linear, inputs, [leases[number] for number in now])
            factors = torch.tensor([number + 1.0 for number in now]).reshape(-1, 1, 1)
            torch.testing.assert_close(output, linear(inputs) + factors * inputs.sum(dim=-1, keepdim=True))
            for lease in leases.values():
                stack.release(lease)
            waiting = [number for number in waiting if number not in leases]


def test_a_few_adapted_rows_are_picked_out_and_many_are_not(bert: TextBackbone, made: Callable[..., Made]) -> None:
    adapter = made(bert, Spec(targets=("query",), layers=(1,))).loaded
    assert adapter.delta is not None
    name = "encoder.layer.1.attention.self.query"
    place = Place(bert.model.get_submodule(name), bert.width, bert.width, 1)
    stack = StackedAdapters({name: place}, device=bert.device, slots=2, nbytes=1 << 20, meter=Meter())
    lease = stack.pin(adapter.key, adapter.delta)
    (few,) = stack.plan([None, None, lease])[name]
    assert few.rows is not None
    assert few.rows.tolist() == [2]
    (many,) = stack.plan([lease, None, lease])[name]
    assert many.rows is None
    assert many.slots.tolist() == [1, 0, 1]
    stack.close()
