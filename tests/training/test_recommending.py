from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graftwork.backbones.backbone import Backbone
from graftwork.backbones.inspect import inspect_model
from graftwork.data.dataset import Dataset
from graftwork.errors import DataRejected, ModalityMismatch, NotFound
from graftwork.evaluation.results import Interval
from graftwork.registry.metadata import BaseMetadata
from graftwork.training.config import TrainingConfig
from graftwork.training.job import train
from graftwork.training.recommending.answer import differing, with_front
from graftwork.training.recommending.bases import APART, Probed, probes_compared
from graftwork.training.recommending.clock import Budget, OutOfTime, TimeLimit
from graftwork.training.recommending.compatibility import foreign_languages, judge_compatibility
from graftwork.training.recommending.evidence import read_features
from graftwork.training.recommending.experience import Experience, Seen, experience_of
from graftwork.training.recommending.halving import LEAST_SHARE, halve
from graftwork.training.recommending.prediction import COMMON, Belief, after_trials, mended_share
from graftwork.training.recommending.recommend import Limits, OfferedBase, recommend
from graftwork.training.recommending.results import Candidate, Trial
from graftwork.training.recommending.rules import Task, by_rules, expected_gain
from tests.cli.samples import draw_rows

Backbones = Callable[..., Backbone]
ALL = ("feature-extraction", "lora", "prefix-tuning", "partial", "full")


def ticking(step: float = 0.001) -> Callable[[], float]:
    """A clock on which every look takes as long, so that nothing depends on how fast the machine is."""
    looks = itertools.count()
    return lambda: next(looks) * step


def trial(mended: float, spread: float, share: float = 1.0) -> Trial:
    return Trial(epochs=4, rows=100, share=share, accuracy=0.8, start=0.7, mended=mended, spread=spread, seconds=1.0)


# Rules of thumb


TASK = Task(rows=1000, classes=4, validation=200, parameters=22_000_000, strategies=ALL)


@pytest.mark.parametrize(
    ("changes", "strategy", "said"),
    [
        ({}, "lora", "1,000 rows, 250 a class"),
        ({"rows": 20}, "feature-extraction", "5 rows a class"),
        ({"validation": 3}, "feature-extraction", "too few"),
        ({"strategies": ("feature-extraction",)}, "feature-extraction", "asked and not changed"),
        ({"strategies": ("feature-extraction", "partial", "full")}, "partial", "no linear layers"),
        ({"seconds": 10.0, "budget": 60.0}, "feature-extraction", "about 90 s, and 60 are allowed"),
        ({"seconds": 10.0, "budget": 91.0}, "lora", ""),
        ({"rows": 10_000}, "full", "10,000 rows"),
        ({"rows": 10_000, "parameters": 7_000_000_000}, "lora", ""),
        ({"far": True}, "full", "far from"),
        ({"far": True, "rows": 900}, "lora", ""),
    ],
)
def test_the_first_rule_that_fits_counts(changes: dict[str, object], strategy: str, said: str) -> None:
    task = replace(TASK, **changes)  # type: ignore[arg-type]
    rule = by_rules(task)
    assert rule.strategy == strategy
    assert said in rule.told(task)
    assert rule.source


def test_expected_gains_grow_with_the_logarithm_of_the_rows() -> None:
    assert expected_gain("lora", 1000)[0] == pytest.approx(0.13)
    assert expected_gain("lora", round(math.sqrt(50 * 1000)))[0] == pytest.approx(0.065, abs=1e-3)
    assert expected_gain("lora", 10)[0] == 0.0
    assert expected_gain("feature-extraction", 1000) == (0.0, 0.0)


# Compatibility


def metadata_of(backbones: object = None, **changes: object) -> BaseMetadata:
    facts = {"architecture": "encoder-only", "domain": "nlp", "model_type": "bert", "parameters": 100, "layers": 2}
    facts |= {"hidden_size": 32, "max_length": 8, "pooling": {"mode": "mean"}}
    return BaseMetadata.model_validate(facts | changes)


def test_rows_of_another_kind_or_language_are_told_before_anything_is_loaded() -> None:
    russian = Dataset.from_lists(["привет мир", "суд решил дело", "новая посылка"], ["a", "b", "a"])
    assert judge_compatibility(metadata_of(domain="vision"), russian).level == "none"
    english = judge_compatibility(metadata_of(languages=("en",)), russian)
    assert english.level == "low"
    assert "100% of the rows are in Cyrillic, and it was made for en" in english.reasons[0]
    assert judge_compatibility(metadata_of(languages=("ru",)), russian).level == "good"
    assert judge_compatibility(metadata_of(), russian).level == "good"  # its card is silent


def test_a_detector_is_believed_before_scripts() -> None:
    scripts = ["Latin"] * 4
    assert foreign_languages(["en"], scripts, ["de", "de", "en", None]) == [
        "67% of the rows are in de, and it was made for en"
    ]
    assert foreign_languages(["en", "de"], scripts, ["de", "de", "en", None]) == []
    assert foreign_languages(["multilingual"], scripts, ["de"] * 4) == []


def test_unknown_tokens_and_cut_rows_count_against_a_base(backbone_of: Backbones) -> None:
    tokenizer = backbone_of("bert").tokenizer
    known = Dataset.from_lists(["the quick brown fox", "the lazy dog"], ["a", "b"])
    fits = judge_compatibility(metadata_of(), known, tokenizer)
    assert (fits.level, fits.unknown_share, fits.truncated_share) == ("good", 0.0, 0.0)
    assert fits.tokens_a_word == pytest.approx(1.0)
    strange = Dataset.from_lists(["☃ ☄ the", "☃ fox"], ["a", "b"])
    judged = judge_compatibility(metadata_of(), strange, tokenizer)
    assert judged.level == "low"
    assert judged.unknown_share == pytest.approx(3 / 5)
    short = judge_compatibility(metadata_of(), known, tokenizer, max_length=4)
    assert short.truncated_share == 1.0
    assert "longer than the 4 tokens" in " ".join(short.reasons)


# Evidence


def test_features_are_those_of_the_head_and_the_mean_over_layers(backbone_of: Backbones) -> None:
    bert = backbone_of("bert")
    texts = [text for text, _ in draw_rows(5)]
    found = read_features(bert, texts, max_length=64, budget=Budget(1e9, ticking()))
    assert np.allclose(found.top, bert.embed(texts).numpy(), atol=1e-6)
    for place in (0, 7):
        batch = bert.collate(bert.encode([texts[place]]))
        with torch.inference_mode():
            layers = [bert.pool(bert.trunk(batch, split), batch.attention_mask) for split in range(bert.num_layers + 1)]
        assert np.allclose(found.averaged[place], torch.stack(layers).mean(0)[0].numpy(), atol=1e-5)
    with pytest.raises(OutOfTime):
        read_features(bert, texts, max_length=64, budget=Budget(0.0, ticking()))


# Prediction


def test_a_trial_and_a_prior_add_their_precisions() -> None:
    (after,) = after_trials([Belief(0.1, 0.2)], {0: trial(0.5, 0.1)})
    precision = 1 / 0.2**2 + 1 / 0.1**2
    assert after.mean == pytest.approx((0.1 / 0.2**2 + 0.5 / 0.1**2) / precision)
    assert after.spread == pytest.approx(precision**-0.5)


def test_a_trial_of_one_moves_the_others_by_what_they_have_in_common() -> None:
    priors = [Belief(0.1, 0.1), Belief(0.1, 0.1), Belief(0.0, 0.0)]
    tried, other, certain = after_trials(priors, {0: trial(-0.3, 1e-6)})
    assert tried.mean == pytest.approx(-0.3, abs=1e-4)
    assert other.mean == pytest.approx(0.1 - 0.4 * COMMON, abs=1e-4)
    assert other.spread == pytest.approx(0.1 * math.sqrt(1 - COMMON**2), abs=1e-4)
    assert certain == Belief(0.0, 0.0)


def test_a_trial_that_was_cut_short_says_less() -> None:
    long, short = (after_trials([Belief(0.0, 0.1)], {0: trial(0.4, 0.05, share)})[0] for share in (1.0, 0.25))
    assert 0 < short.mean < long.mean
    assert short.spread > long.spread


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_the_mended_share_is_counted_row_by_row(rows: list[tuple[int, int, int]]) -> None:
    tuned, start, truth = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    share, spread = mended_share(tuned, start, truth)
    wrong = sum(s != t for _, s, t in rows)
    right = sum(s == t for _, s, t in rows)
    after = sum(u == t for u, _, t in rows)
    assert share == pytest.approx((after - right) / max(wrong, 1))
    assert spread > 0


def test_the_expected_accuracy_is_the_probe_with_errors_mended() -> None:
    probed = Probed(0.8, 0.02)
    alone = Belief(0.0, 0.0).accuracy(probed)
    assert alone.value == 0.8
    assert alone.high == pytest.approx(0.8 + 1.959964 * 0.02, abs=1e-5)
    assert Belief(0.25, 0.0).accuracy(probed).value == pytest.approx(0.85)
    wide = Belief(0.25, 0.1).accuracy(probed)
    assert wide.high - wide.low > alone.high - alone.low


# Bases on the same rows


def marks(both: int, first: int, second: int, neither: int, *, times: int = 1) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Rows that both probes got right, the first alone, the second alone, neither."""
    kinds = [(True, True), (True, False), (False, True), (False, False)]
    counts = [times * count for count in (both, first, second, neither)]
    return np.array([kind for kind, count in zip(kinds, counts, strict=True) for _ in range(count)])


def test_one_probe_alone_is_taken_as_measured() -> None:
    (alone,) = probes_compared(np.arange(100)[:, None] < 80)
    assert alone.accuracy == pytest.approx(0.8)
    assert alone.spread == pytest.approx(math.sqrt(0.8 * 0.2 / 100), rel=0.01)
    (perfect,) = probes_compared(np.ones((20, 1), dtype=np.bool_))
    assert perfect.accuracy == pytest.approx(1.0)
    assert perfect.spread == pytest.approx(math.sqrt(0.5) / 20, rel=0.01)


def test_differences_of_probes_are_shrunk_by_what_paired_rows_can_tell() -> None:
    def apart(right: np.ndarray[Any, np.dtype[np.bool_]]) -> float:
        first, second = probes_compared(right)
        return first.accuracy - second.accuracy

    # By hand: a priori the difference has the variance 2 (0.1 x 0.28)^2; counted is 0.04, of (0.2 - 0.04^2) / 100.
    usual, luck = 2 * (APART * 0.28) ** 2, (0.2 - 0.04**2) / 100
    assert apart(marks(62, 12, 8, 18)) == pytest.approx(0.04 * usual / (usual + luck), rel=1e-3)
    assert apart(marks(70, 4, 0, 26)) > apart(marks(62, 12, 8, 18))  # fewer rows in dispute, less luck
    assert apart(marks(62, 12, 8, 18, times=100)) == pytest.approx(0.04, rel=0.03)
    assert apart(marks(62, 8, 12, 18)) == pytest.approx(-apart(marks(62, 12, 8, 18)))
    assert apart(marks(62, 10, 10, 18)) == pytest.approx(0.0, abs=1e-12)


def test_limits_of_compared_probes_hold_and_their_differences_are_nearer_than_those_counted() -> None:
    rng = np.random.default_rng(0)
    inside, errors = [], []
    for _ in range(1000):
        truth = 1 - 0.3 * (1 + APART * rng.standard_normal(2))
        hard = rng.random(150)  # to both alike: half of the rows
        own = rng.random((150, 2))
        right = np.where(rng.random((150, 1)) < 0.5, hard[:, None], own) < truth
        found = probes_compared(right)
        inside += [abs(one.accuracy - t) < 1.96 * one.spread for one, t in zip(found, truth, strict=True)]
        wanted = truth[0] - truth[1]
        counted = right.mean(axis=0)
        errors.append([found[0].accuracy - found[1].accuracy - wanted, counted[0] - counted[1] - wanted])
    assert 0.93 < np.mean(inside) < 0.97
    shrunk, raw = np.sqrt(np.square(errors).mean(axis=0))
    assert shrunk < 0.9 * raw


def test_a_run_is_asked_to_end_when_the_budget_is_used_up_or_somebody_asks() -> None:
    assert TimeLimit(Budget(0.0, ticking())).requested
    wish = TimeLimit(Budget(1e9, ticking()))
    assert not wish.requested
    wish.request()
    assert wish.requested


# Experience


def test_history_is_shrunk_towards_the_rule() -> None:
    rule, spread = expected_gain("lora", 1000)
    one = Seen(base="b", strategy="lora", rows=1000, mended=0.5, test_rows=10_000, probe=0.5)
    weight = spread**2 / (spread**2 + one.noise)
    assert weight > 0.99
    assert Experience((one,)).belief("lora", base="b", rows=1000).mean == pytest.approx(
        (4 * rule + weight * 0.5) / (4 + weight)
    )
    many = Experience((one,) * 400).belief("lora", base="b", rows=1000)
    assert many.mean == pytest.approx(0.5, abs=0.01)
    assert many.spread == spread
    assert Experience((one,)).belief("full", base="b", rows=1000).mean == expected_gain("full", 1000)[0]
    assert Experience((one,) * 3).count("lora") == 3


def test_runs_with_few_test_rows_other_sizes_or_another_base_weigh_less() -> None:
    exact = Seen(base="b", strategy="lora", rows=1000, mended=0.5, test_rows=10_000, probe=0.5)
    means = [
        Experience((seen,)).belief("lora", base="b", rows=1000).mean
        for seen in (exact, replace(exact, rows=4000), replace(exact, test_rows=30))
    ]
    elsewhere = Experience((replace(exact, base="c"),)).belief("lora", base="b", rows=1000)
    assert elsewhere.mean == pytest.approx(means[1])  # half as much, as on four times more rows
    assert means[0] > means[1] > means[2] > expected_gain("lora", 1000)[0]


def test_bases_are_told_apart_by_what_was_seen_of_them_on_the_same_rows() -> None:
    worse = Seen(base="b", strategy="lora", rows=200, mended=0.0, test_rows=10**6, probe=0.7, data="d")
    better = replace(worse, base="c", mended=0.5)  # errors of 30 and 15 %: a third more and less than 22.5 %
    weight = APART**2 / (APART**2 + 0.775 / (0.225 * 10**6))
    once = weight / 3 / (4 + weight)
    assert Experience((worse, better)).apart(["b", "c", "new"]) == pytest.approx([once, -once, 0.0])
    again = [replace(one, data=f"d{place}") for place in range(400) for one in (worse, better)]
    assert Experience(tuple(again)).apart(["c", "b"]) == pytest.approx([-1 / 3, 1 / 3], rel=0.02)
    few = Experience((replace(worse, test_rows=50), replace(better, test_rows=50))).apart(["b", "c"])
    assert 0 < few[0] < once / 2
    by_other = replace(better, strategy="full")
    alone = (worse, replace(better, data="e"), by_other, replace(worse, data=""), replace(better, data=""))
    assert Experience(alone).apart(["b", "c"]) == [0.0, 0.0]
    # A second strategy on the same data is no second task.
    both = (worse, better, replace(worse, strategy="full"), by_other)
    assert Experience(both).apart(["b", "c"]) == pytest.approx([once, -once])


def test_what_is_expected_of_bases_decides_where_rows_cannot() -> None:
    alike = marks(62, 10, 10, 18)
    first, second = probes_compared(alike, [0.1, -0.1])
    assert second.accuracy - first.accuracy > 0.02
    first, second = probes_compared(np.tile(alike, (1000, 1)), [0.1, -0.1])
    assert second.accuracy - first.accuracy == pytest.approx(0.0, abs=1e-3)


def version(**changes: Any) -> Any:
    """As much of a published version as is looked at."""
    metrics = {"rows": 50, "accuracy": {"value": 0.9}, "probe": {"accuracy": {"value": 0.8}}}
    facts: dict[str, Any] = {
        "base": "b",
        "strategy": "lora",
        "settings": {"strategy": "lora"},
        "parent": None,
        "tasks": (),
    }
    dataset = SimpleNamespace(train_rows=160, validation_rows=40, digest="rows", test_digest="test rows")
    facts |= {"metrics": metrics, "dataset": dataset}
    return SimpleNamespace(manifest=SimpleNamespace(**facts | changes), record={"total_seconds": 7.5})


def test_published_versions_are_seen_unless_auto_took_them() -> None:
    (seen,) = experience_of([version()]).seen
    assert (seen.base, seen.strategy, seen.rows, seen.test_rows, seen.seconds) == ("b", "lora", 200, 50, 7.5)
    assert seen.mended == pytest.approx(0.5)
    assert seen.data == "rows test rows"
    assert seen.error == pytest.approx(0.1)
    left_out = [
        version(settings={"strategy": "auto"}),  # it was taken because it was better
        version(parent="digest"),
        version(tasks=("topic", "mood")),
        version(metrics=None),
        version(metrics={"rows": 50, "accuracy": {"value": 0.9}, "probe": None}),  # the probe itself
    ]
    assert experience_of(left_out).seen == ()


# Halving


@given(
    st.lists(st.floats(0.1, 100), min_size=1, max_size=9),
    st.floats(0.1, 500),
    st.integers(0, 2**16),
)
def test_halving_keeps_its_time_and_lets_the_better_half_go_on(costs: list[float], seconds: float, seed: int) -> None:
    scores = np.random.default_rng(seed).permutation(len(costs)).tolist()
    spent, done = 0.0, dict.fromkeys(range(len(costs)), 0.0)

    def run(one: int, share: float) -> bool:
        nonlocal spent
        assert LEAST_SHARE <= share <= 1
        assert share >= done[one]
        spent += share * costs[one]
        done[one] = share
        return True

    halve(
        range(len(costs)),
        cost=lambda one: costs[one],
        trial=run,
        score=lambda one: scores[one],
        left=lambda: seconds - spent,
    )
    assert spent <= seconds * (1 + 1e-9)
    if seconds >= costs[0]:
        assert max(done.values()) > 0
    if seconds >= 10 * sum(costs) * math.log2(len(costs) + 1):
        assert done[max(done, key=lambda one: scores[one])] == 1.0


def test_halving_stops_where_a_trial_could_not_be_ended() -> None:
    asked: list[int] = []

    def interrupted(one: int, _: float) -> bool:
        asked.append(one)
        return False

    halve([1, 2, 3], cost=lambda _: 1.0, trial=interrupted, score=float, left=lambda: 99.0)
    assert asked == [1]


# The whole


NAMES = ("small", "wide")


Saved = Callable[[str], Path]


def offered(backbone_of: Backbones, saved: Saved, names: Sequence[str] = NAMES) -> list[OfferedBase]:
    kinds = {"small": "bert", "wide": "roberta"}
    return [
        OfferedBase(name, inspect_model(saved(kinds[name])).metadata, partial(backbone_of, kinds[name]))
        for name in names
    ]


_DRAWN = draw_rows(60)
ROWS = Dataset.from_lists([text for text, _ in _DRAWN], [label for _, label in _DRAWN], source="rows.csv")
QUICK = TrainingConfig.parse(assignments=["fine_tuning.epochs=4", "lora.rank=2", "feature_extraction.folds=2"])


def test_with_time_for_all_it_tries_and_explains(
    backbone_of: Backbones, saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[str] = []

    def plan(_: Backbone, strategy: str, *__: object, **___: object) -> int:
        planned.append(strategy)
        return 1000 * len(planned)

    monkeypatch.setattr("graftwork.training.recommending.answer.peak_memory", plan)  # plans have tests of their own
    bases = offered(backbone_of, saved, ["small"])
    made = recommend(ROWS, bases, budget=Budget(1e6, ticking()), config=QUICK, price=lambda seconds: 2 * seconds)
    assert (made.rows, made.classes, made.source) == (96, 2, "rows.csv")
    assert [one.strategy for one in sorted(made.candidates, key=lambda one: ALL.index(one.strategy))] == list(ALL)
    assert max(one.trials[-1].share for one in made.candidates if one.trials) == 1.0
    assert made.chosen == made.candidates[0]
    assert made.chosen.accuracy is not None
    assert made.chosen.accuracy.value >= max(one.accuracy.value for one in made.candidates if one.accuracy) - 0.005
    assert {one.strategy: one.settings for one in made.candidates} == {
        one: ("feature_extraction.folds=2", *(["lora.rank=2"] if one == "lora" else [])) for one in ALL
    }
    assert all(one.price == pytest.approx(2 * one.seconds, abs=1e-2) for one in made.candidates if one.seconds)
    assert [one.memory_bytes for one in made.candidates] == [1000, 2000, 3000, 4000, 5000]
    assert planned == [one.strategy for one in made.candidates]
    assert all(one.stored_bytes and one.latency_ms for one in made.candidates)
    assert "small: a probe" in made.reasons[0]
    lora = next(one for one in made.candidates if one.strategy == "lora")
    config = QUICK.model_copy(update={"strategy": "lora"})
    artifact = train(backbone_of("bert"), ROWS, config=config).artifact
    assert lora.stored_bytes == pytest.approx(artifact.size_bytes, abs=5_000)


def test_of_several_bases_each_has_its_evidence_and_the_same_answer_comes_twice(
    backbone_of: Backbones, saved: Saved
) -> None:
    first, second = (
        recommend(ROWS, offered(backbone_of, saved), budget=Budget(0.3, ticking()), config=QUICK) for _ in range(2)
    )
    assert {base.name for base in first.bases if base.evidence} == set(NAMES)
    assert {(one.base, one.strategy) for one in first.candidates} == set(itertools.product(NAMES, ALL))
    free_of_clock = {"latency_ms": None}
    assert [one.model_copy(update=free_of_clock) for one in first.candidates] == [
        one.model_copy(update=free_of_clock) for one in second.candidates
    ]


def test_without_time_rules_decide_and_it_says_so(backbone_of: Backbones, saved: Saved) -> None:
    made = recommend(ROWS, offered(backbone_of, saved), budget=Budget(1e-9, ticking()), config=QUICK)
    assert made.known_from == "rules"
    assert made.chosen is not None
    assert (made.chosen.strategy, made.chosen.accuracy) == ("lora", None)
    assert any("rules of thumb alone" in note for note in made.notes)


def test_a_base_that_is_gone_is_left_out(backbone_of: Backbones, saved: Saved) -> None:
    def gone() -> Backbone:
        raise NotFound("no base model 'wide'")

    here, there = offered(backbone_of, saved)
    made = recommend(ROWS, [here, replace(there, load=gone)], budget=Budget(0.5, ticking()), config=QUICK)
    assert {base.name: base.missing for base in made.bases} == {"small": "", "wide": "no base model 'wide'"}
    assert {one.base for one in made.candidates} == {"small"}
    with pytest.raises(NotFound, match="no base model can be loaded") as failed:
        recommend(ROWS, [replace(there, load=gone)], budget=Budget(0.5, ticking()), config=QUICK)
    assert [problem.where for problem in failed.value.problems] == ["wide"]


def test_limits_lower_the_rank_or_refuse(backbone_of: Backbones, saved: Saved) -> None:
    bases = offered(backbone_of, saved, ["small"])
    free = recommend(ROWS, bases, budget=Budget(0.5, ticking()), config=TrainingConfig())
    sizes = {one.strategy: one.stored_bytes or 0 for one in free.candidates}
    most = sizes["lora"] - 1
    bounded = recommend(
        ROWS, bases, budget=Budget(0.5, ticking()), config=TrainingConfig(), limits=Limits(stored_bytes=most)
    )
    lora = next(one for one in bounded.candidates if one.strategy == "lora")
    assert any(setting.startswith("lora.rank=") for setting in lora.settings)
    assert (lora.stored_bytes or 0) <= most
    assert all(one.refused for one in bounded.candidates if sizes[one.strategy] > most and one.strategy != "lora")
    slow = recommend(ROWS, bases, budget=Budget(0.5, ticking()), limits=Limits(latency_ms=1e-9))
    assert slow.chosen is None
    assert all("a request takes" in one.refused[0] for one in slow.candidates)


def test_mistakes_of_rows_and_bases_are_told(backbone_of: Backbones, saved: Saved) -> None:
    bases = offered(backbone_of, saved, ["small"])
    with pytest.raises(NotFound, match="no base model to choose from"):
        recommend(ROWS, [], budget=Budget(1.0, ticking()))
    with pytest.raises(DataRejected):
        recommend(Dataset.from_lists(["a", "b"], ["x", "x"]), bases, budget=Budget(1.0, ticking()))
    blind = replace(bases[0], metadata=bases[0].metadata.model_copy(update={"domain": "vision"}))
    with pytest.raises(ModalityMismatch) as failed:
        recommend(ROWS, [blind], budget=Budget(1.0, ticking()))
    assert "it reads images, and the rows are texts" in failed.value.problems[0].what


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=1, max_size=8))
def test_the_front_is_whom_nobody_beats(points: list[tuple[int, int]]) -> None:
    made = with_front(
        [Candidate(base="b", strategy="lora", accuracy=Interval.of(a / 10, 0, 1), seconds=float(s)) for a, s in points]
    )
    for (a, s), one in zip(points, made, strict=True):
        beaten = any((b >= a and t <= s) and (b > a or t < s) for b, t in points)
        assert one.front is not beaten


def test_settings_are_told_as_they_are_given() -> None:
    assigned = ["lora.rank=4", "fine_tuning.gradient_checkpointing=true", "max_length=32"]
    config = TrainingConfig.parse(seed=3, strategy="lora", assignments=assigned)
    told = differing(config)
    assert sorted(told) == sorted(["lora.rank=4", "max_length=32"])
    assert differing(config.model_copy(update={"strategy": "full"})) == ("max_length=32",)
    assert TrainingConfig.parse(seed=3, strategy="lora", assignments=told).lora.rank == 4
