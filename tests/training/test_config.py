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
    assert "'prefix-tuning', 'partial' or 'full'" in told["strategy"]
    assert "max_length" in told
    assert "lora.alpha" in caught.value.remedy


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
