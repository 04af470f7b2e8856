from __future__ import annotations

from pathlib import Path

import pytest

from graftwork.errors import SettingsInvalid
from graftwork.training.config import TrainingConfig, read_settings


def test_assignments_reach_into_the_parts() -> None:
    config = TrainingConfig.parse(
        strategy="lora",
        seed=None,
        assignments=[
            "lora.rank=4",
            "lora.targets=[query, value]",
            "fine_tuning.learning_rate=3e-4",
            "max_length=64",
            "feature_extraction.penalties=[0.1, 0.01]",
        ],
    )
    assert config.strategy == "lora"
    assert config.seed == 0
    assert config.lora.rank == 4
    assert config.lora.targets == ("query", "value")
    assert config.fine_tuning.learning_rate == 3e-4
    assert config.max_length == 64
    assert config.feature_extraction.penalties == (0.1, 0.01)


def test_every_mistake_is_listed_with_the_nearest_name() -> None:
    with pytest.raises(SettingsInvalid) as caught:
        TrainingConfig.parse(
            strategy="lorra",
            assignments=["lora.rnak=4", "fine_tuning.epochs=0", "seed", "max_length.x=1", "learning_rate=1"],
        )
    told = {problem.where: problem.what for problem in caught.value.problems}
    assert told["lora.rnak"] == "is unknown; did you mean lora.rank?"
    assert told["learning_rate"] == "is unknown; did you mean fine_tuning.learning_rate?"
    assert "greater than or equal to 1" in told["fine_tuning.epochs"]
    assert told["seed"] == "is not of the form key=value"
    assert told["strategy"].endswith("'prefix-tuning', 'partial' or 'full', not 'lorra'; did you mean lora?")
    assert "max_length" in told
    assert "lora.alpha" in caught.value.remedy


def test_what_contradicts_itself_is_told_beside_every_other_mistake() -> None:
    with pytest.raises(SettingsInvalid) as caught:
        TrainingConfig.parse(
            strategy="partial",
            assignments=[
                "partial.freeze_until=1", "partial.freeze_ratio=0.5", "partial.stroe=float16", "lora.rank=3",
                "fine_tuning.learning_rate=-1", "prefix_tuning.length=2", "fine_tuning.precision=float61",
                "partial.freeze_layers=often",
            ],
        )  # fmt: skip
    assert {problem.where: problem.what for problem in caught.value.problems} == {
        "partial": "contradicts itself: give one of freeze_until and freeze_ratio and freeze_layers",
        "partial.stroe": "is unknown; did you mean partial.store?",
        "partial.freeze_layers": "input should be a valid integer, unable to parse string as an integer, or input "
        "should be 'auto', not 'often'",
        "lora.rank": "has no effect with strategy partial: it is a setting of lora",
        "prefix_tuning.length": "has no effect with strategy partial: it is a setting of prefix-tuning",
        "fine_tuning.learning_rate": "input should be greater than 0, or input should be 'auto', not -1",
        "fine_tuning.precision": "input should be 'float32', 'bfloat16' or 'float16', not 'float61'; did you mean "
        "float16?",
    }


@pytest.mark.parametrize(
    "strange", ["strategy=[lora]", "strategy={a: 1}", "partial=[1]", "partial=often", "lora.rank={}"]
)
def test_values_of_another_shape_are_told_and_nothing_else(strange: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        TrainingConfig.parse(assignments=[strange])
    (problem,) = caught.value.problems
    assert problem.where == strange.partition("=")[0]


def test_what_is_alone_is_told_once() -> None:
    with pytest.raises(SettingsInvalid) as caught:
        TrainingConfig.parse(strategy="partial", assignments=["partial.freeze_until=1", "partial.freeze_ratio=0.5"])
    (problem,) = caught.value.problems
    assert str(problem) == "partial: contradicts itself: give one of freeze_until and freeze_ratio"


def test_settings_that_are_inherited_may_be_those_of_another_strategy() -> None:
    lora = TrainingConfig.parse(strategy="lora", assignments=["lora.rank=2", "seed=3"]).model_dump(mode="json")
    config = TrainingConfig.parse(inherited=lora, strategy="partial", assignments=["partial.store=float16"])
    assert (config.strategy, config.seed, config.lora.rank, config.partial.store) == ("partial", 3, 2, "float16")
    assert TrainingConfig.parse(assignments=["lora.rank=2", "feature_extraction.folds=3"]).lora.rank == 2


def test_a_config_survives_the_manifest() -> None:
    config = TrainingConfig.parse(assignments=["lora.layers=2", "seed=7"])
    assert TrainingConfig.model_validate(config.model_dump(mode="json")) == config


def test_what_cannot_be_served_is_refused_with_the_reason() -> None:
    with pytest.raises(SettingsInvalid) as caught:
        TrainingConfig.parse(assignments=["lora.dora=true", "lora.rank=0"])
    told = {problem.where: problem.what for problem in caught.value.problems}
    assert set(told) == {"lora.dora", "lora.rank"}
    assert told["lora.dora"].startswith("DoRA scales every output")


def test_settings_come_from_a_file_and_single_ones_count_more(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("strategy: lora\nseed: 3\nlora: {rank: 4, alpha: 1e1}\n")
    config = TrainingConfig.parse(start=read_settings(file), seed=5, strategy=None, assignments=["lora.rank=2"])
    assert (config.strategy, config.seed, config.lora.rank, config.lora.alpha) == ("lora", 5, 2, 10.0)
    assert TrainingConfig.parse(start=config.model_dump(mode="json")) == config


def test_mistakes_in_a_file_are_all_listed(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("strateggy: lora\nlora: {rank: 0}\n")
    with pytest.raises(SettingsInvalid) as caught:
        TrainingConfig.parse(start=read_settings(file))
    told = {problem.where: problem.what for problem in caught.value.problems}
    assert told["strateggy"] == "is unknown; did you mean strategy?"
    assert set(told) == {"strateggy", "lora.rank"}


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"a: [", "line 1"), (b"- lora\n", "holds no settings"), (b"\xff\xfe", "decode"), (None, "No such file")],
)
def test_a_file_that_holds_no_settings_is_refused(tmp_path: Path, content: bytes | None, told: str) -> None:
    file = tmp_path / "settings.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsInvalid, match=told):
        read_settings(file)


def test_auto_has_a_schedule_of_its_own_where_none_was_asked_for() -> None:
    plain = TrainingConfig.parse(assignments=["fine_tuning.clip=2"])
    tuning = plain.scheduled("text").fine_tuning
    assert (tuning.epochs, tuning.batch_size, tuning.learning_rate, tuning.clip) == (1, 16, 2e-3, 2)
    again = TrainingConfig.parse(inherited=plain.scheduled("text").model_dump(mode="json"))
    assert again == plain.scheduled("text") == again.scheduled("text")
    before = TrainingConfig.parse(inherited=plain.model_dump(mode="json"))
    assert before.scheduled("text") == plain
    assert plain.scheduled("image") == plain


@pytest.mark.parametrize(
    "assignments",
    [
        ["strategy=lora"],
        ["fine_tuning.epochs=4"],
        ["fine_tuning.batch_size=32"],
        ["fine_tuning.learning_rate=auto"],
        ["adaptation=self-training"],
    ],
)
def test_what_was_asked_for_is_left_as_it_is(assignments: list[str]) -> None:
    config = TrainingConfig.parse(assignments=assignments)
    assert config.scheduled("text") is config
