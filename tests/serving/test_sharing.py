from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from graftwork.serving.keys import AdapterKey
from graftwork.serving.trunk import Body, share_trunk

LAYERS = 6


def body(text: int, adapter: str | None, split: int = LAYERS) -> Body:
    return Body((text,), AdapterKey(adapter, "base") if adapter else None, split)


def test_different_texts_have_nothing_to_share() -> None:
    bodies = [body(text, "a", 5) for text in range(4)]
    assert share_trunk(bodies, LAYERS) == [(0, bodies)]


def test_adapters_of_the_first_layer_have_nothing_to_share() -> None:
    bodies = [body(0, name, 0) for name in "abcd"]
    assert share_trunk(bodies, LAYERS) == [(0, bodies)]


def test_the_depth_is_the_one_that_runs_the_fewest_layers() -> None:
    deep, shallow = [body(0, name, 5) for name in "abcd"], [body(0, name, 1) for name in "ef"]
    # Depth 5: 1 x 5 + 4 x 1 + 2 x 6 = 21 layers; depth 1: 1 + 6 x 5 = 31; none: 36.
    assert share_trunk([*shallow, *deep], LAYERS) == [(0, shallow), (5, deep)]


def test_the_bases_own_row_shares_the_trunk_with_adapted_ones() -> None:
    bodies = [body(0, None), body(0, "a", 4), body(0, "b", 4)]
    assert share_trunk(bodies, LAYERS) == [(4, bodies)]


def test_a_saving_too_small_to_pay_for_a_second_pass_is_left() -> None:
    bodies = [*(body(text, "a", 3) for text in range(12)), body(0, "b", 3)]
    assert share_trunk(bodies, LAYERS) == [(0, bodies)]


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["a", "b", "c", "d", None])), min_size=1, max_size=12, unique=True
    )
)
def test_every_body_is_in_exactly_one_group_that_leaves_its_layers_to_it(pairs: list[tuple[int, str | None]]) -> None:
    splits = {"a": 0, "b": 2, "c": 4, "d": 5, None: LAYERS}
    bodies = [body(text, adapter, splits[adapter]) for text, adapter in pairs]
    groups = share_trunk(bodies, LAYERS)
    assert sorted(map(id, (member for _, members in groups for member in members))) == sorted(map(id, bodies))
    assert all(member.split >= split for split, members in groups for member in members)
