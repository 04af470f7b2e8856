from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from graftwork.serving.delta import Delta, LowRank, Place
from graftwork.serving.keys import AdapterKey
from graftwork.serving.stacked import Lease, SlotReassigned, StackedAdapters
from graftwork.serving.stats import Meter
from graftwork.serving.updates import Application, Updates, segments_of

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


def stack_of(*, slots: int = 2, nbytes: int = 1 << 20) -> tuple[StackedAdapters, Meter]:
    meter = Meter()
    return StackedAdapters(device=torch.device("cpu"), slots=slots, nbytes=nbytes, meter=meter), meter


def updates_of(**modules: nn.Module) -> Updates:
    return Updates({name: Place(module, WIDE, WIDE, 0) for name, module in modules.items()})


@pytest.fixture
def linear() -> nn.Linear:
    return nn.Linear(WIDE, WIDE)


def pinned(stack: StackedAdapters, name: str, update: Delta) -> Lease:
    lease = stack.pin(key(name), update)
    assert lease is not None
    return lease


def run(stack: StackedAdapters, linear: nn.Module, inputs: torch.Tensor, rows: list[Lease | None]) -> torch.Tensor:
    updates = updates_of(one=linear)
    with torch.inference_mode(), updates.applied(stack.plan(rows)):
        output: torch.Tensor = linear(inputs)
    updates.close()
    return output


def test_each_row_gets_its_own_adapters_update(linear: nn.Linear) -> None:
    stack, _ = stack_of(slots=4)
    inputs = torch.randn(4, 3, WIDE)
    one, two = pinned(stack, "one", delta(1.0)), pinned(stack, "two", delta(-2.0, rank=16))
    output = run(stack, linear, inputs, [two, None, one, two])
    sums = inputs.sum(dim=-1, keepdim=True)
    factors = torch.tensor([-2.0, 0.0, 1.0, -2.0]).reshape(4, 1, 1)
    torch.testing.assert_close(output, linear(inputs) + factors * sums)


def test_a_module_without_a_plan_is_left_alone(linear: nn.Linear) -> None:
    stack, _ = stack_of()
    inputs = torch.randn(2, 3, WIDE)
    plain = linear(inputs)
    stack.release(pinned(stack, "one", delta(1.0)))
    assert stack.plan([None, None]) == {}
    assert torch.equal(linear(inputs), plain)


def test_a_reassigned_slot_never_answers_for_its_former_owner(linear: nn.Linear) -> None:
    stack, _ = stack_of(slots=1)
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
    stack, meter = stack_of(slots=2)
    first = pinned(stack, "first", delta(1.0))
    stack.release(pinned(stack, "second", delta(2.0)))
    third = pinned(stack, "third", delta(3.0))
    assert stack.pin(key("fourth"), delta(4.0)) is None
    assert meter.snapshot().slot_evictions == 1
    stack.plan([first, third])
    stack.release(first)
    assert stack.pin(key("fourth"), delta(4.0)) is not None


def test_the_least_recently_used_adapter_leaves_first(linear: nn.Linear) -> None:
    stack, meter = stack_of(slots=2)
    for name in ("a", "b", "a", "c"):
        stack.release(pinned(stack, name, delta(1.0)))
    assert meter.snapshot().slot_loads == 3
    stack.release(pinned(stack, "a", delta(1.0)))
    assert meter.snapshot().slot_loads == 3
    stack.release(pinned(stack, "b", delta(1.0)))
    assert meter.snapshot().slot_loads == 4


def test_an_adapter_of_several_ranks_takes_a_slot_of_each_or_none(linear: nn.Linear) -> None:
    other = nn.Linear(WIDE, WIDE)
    stack, _ = stack_of(slots=1)
    mixed = Delta(0, {8: delta(1.0).buckets[8], 16: delta(2.0, rank=16, modules=("two",)).buckets[16]})
    narrow = pinned(stack, "narrow", delta(1.0))
    assert stack.pin(key("mixed"), mixed) is None
    assert len(stack) == 1
    stack.release(narrow)
    lease = pinned(stack, "mixed", mixed)
    assert set(lease.slots) == {8, 16}
    assert len(stack) == 1
    inputs = torch.randn(1, 2, WIDE)
    plain = linear(inputs), other(inputs)
    with torch.inference_mode(), updates_of(one=linear, two=other).applied(stack.plan([lease])):
        one, two = linear(inputs), other(inputs)
    sums = inputs.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(one, plain[0] + sums)
    torch.testing.assert_close(two, plain[1] + 2 * sums)


def test_resident_bytes_stay_within_their_bound(linear: nn.Linear) -> None:
    each = delta(1.0).nbytes
    stack, meter = stack_of(slots=100, nbytes=3 * each)
    for index in range(10):
        stack.release(pinned(stack, str(index), delta(1.0, rank=8 if index % 2 else 16)))
        assert stack.nbytes <= 3 * each
    assert meter.snapshot().slot_evictions > 0


def test_a_copy_that_fails_takes_no_slot(linear: nn.Linear) -> None:
    stack, _ = stack_of(slots=1)
    stack.release(pinned(stack, "good", delta(1.0)))
    broken = Delta(0, {8: {"one": LowRank(torch.zeros(WIDE + 1, 8), torch.zeros(8, WIDE))}})
    for _ in range(3):
        with pytest.raises(RuntimeError):
            stack.pin(key("broken"), broken)
    assert stack.pin(key("good"), delta(1.0)) is not None


def test_an_update_that_was_not_applied_is_an_error_and_not_the_bases_answer(linear: nn.Linear) -> None:
    other = nn.Linear(WIDE, WIDE)
    stack, _ = stack_of()
    lease = pinned(stack, "both", delta(1.0, modules=("one", "two")))
    updates = updates_of(one=linear, two=other)
    with pytest.raises(RuntimeError, match="did not run two"), updates.applied(stack.plan([lease])):
        linear(torch.randn(1, 2, WIDE))


def test_closing_takes_the_hooks_off(linear: nn.Linear) -> None:
    stack, _ = stack_of()
    updates = updates_of(one=linear)
    with updates.applied(stack.plan([pinned(stack, "one", delta(1.0))])):
        linear(torch.randn(1, 2, WIDE))
    assert linear._forward_hooks
    updates.close()
    assert not linear._forward_hooks


@settings(max_examples=50)
@given(asked=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5), min_size=1, max_size=12))
def test_answers_are_right_through_any_sequence_of_evictions(asked: list[list[int]]) -> None:
    linear = nn.Linear(WIDE, WIDE)
    stack, _ = stack_of(slots=3)
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


def test_rows_without_an_update_are_as_the_base_leaves_them_bit_for_bit(linear: nn.Linear) -> None:
    stack, _ = stack_of()
    lease = pinned(stack, "one", delta(1.0))
    inputs = torch.randn(4, 2, WIDE)
    few = run(stack, linear, inputs, [None, None, None, lease])
    many = run(stack, linear, inputs, [lease, None, lease, lease])
    assert torch.equal(few[:3], linear(inputs)[:3])
    assert torch.equal(many[1], linear(inputs)[1])
    torch.testing.assert_close(few[3], many[3])


@settings(max_examples=60)
@given(rows=st.lists(st.integers(0, 4), min_size=1, max_size=9), tokens=st.sampled_from([1, 3, 300]))
def test_rows_by_themselves_and_rows_sorted_by_adapter_get_what_a_plain_loop_gives(
    rows: list[int], tokens: int
) -> None:
    generator = torch.Generator().manual_seed(len(rows))
    a, b = torch.randn(5, WIDE, 8, generator=generator), torch.randn(5, 8, 4, generator=generator)
    a[0] = b[0] = 0
    slots = torch.tensor(rows)
    inputs = torch.randn(len(rows), tokens, WIDE, generator=generator)
    given = torch.randn(len(rows), tokens, 4, generator=generator)
    meant = torch.stack([given[row] + inputs[row] @ a[slot] @ b[slot] for row, slot in enumerate(rows)])
    application = Application(a, b, slots, segments_of(slots))
    for add in (application.add, application.add_by_row, application.add_by_segment):
        output = given.clone()
        add(inputs, output)
        torch.testing.assert_close(output, meant, rtol=1e-4, atol=1e-4)
        assert torch.equal(output[slots == 0], given[slots == 0])


def test_a_plan_says_the_rows_of_each_adapter(linear: nn.Linear) -> None:
    stack, _ = stack_of(slots=4)
    one, two = pinned(stack, "one", delta(1.0)), pinned(stack, "two", delta(2.0))
    (application,) = stack.plan([two, None, one, two])["one"]
    found = {slot: rows.tolist() for slot, rows in application.segments}
    assert found == {one.slots[8][0]: [2], two.slots[8][0]: [0, 3]}
