"""What a run of `graft train` stands on, beside its rows: a name, a base, the settings, and adapters made before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graftwork.cli.replies import refuse_to_generate
from graftwork.errors import SettingsInvalid

if TYPE_CHECKING:
    from graftwork.cli.training.request import TrainRequest
    from graftwork.registry.artifact import Artifact
    from graftwork.registry.versions import AdapterVersion
    from graftwork.training.config import TrainingConfig
    from graftwork.wiring import Services


@dataclass(frozen=True)
class Ground:
    """What a run stands on.

    Attributes:
        name: `tenant/name` to publish under.
        base: the base model to adapt.
        config: the training settings.
        ancestors: the adapter to train on top of, its parent and so on.
        previous: the version to go on with.
        continued: the same as it is stored, whose ancestors `ancestors` are then.
        expected_latest: publish only if this is the newest version.
        max_bytes: what the adapter may take where it is stored.
    """

    name: str
    base: str
    config: TrainingConfig
    ancestors: tuple[Artifact, ...] = ()
    previous: AdapterVersion | None = None
    continued: Artifact | None = None
    expected_latest: int | None = None
    max_bytes: int | None = None


def lay_ground(opened: Services, asked: TrainRequest) -> Ground:
    """Look up what was named.

    Raises:
        Conflict: if another version is the newest than was expected.
        NotFound: if there is no such base or adapter.
        ReferenceMalformed: if the name is none.
        SettingsInvalid: with every wrong setting, or if another base than the parent's is said.
    """
    from graftwork.cli.sizes import parse_size
    from graftwork.registry.reference import Reference

    name = asked.name or Reference.parse(asked.continued or "").bare
    Reference.parse_bare(name)
    most_bytes = None if asked.max_bytes is None else parse_size(asked.max_bytes)
    previous = None if asked.continued is None else opened.catalog.resolve(asked.continued)
    config = _config_of(opened, asked, previous)
    chain = _read_chain(opened, asked.parent if previous is None else previous.reference)
    base = _base_of(opened, asked.base, chain)
    return Ground(
        name=name,
        base=base,
        config=config,
        ancestors=chain if previous is None else chain[1:],
        previous=previous,
        continued=None if previous is None else chain[0],
        expected_latest=_expected_latest(opened, asked, name, previous),
        max_bytes=most_bytes,
    )


def _config_of(opened: Services, asked: TrainRequest, previous: AdapterVersion | None) -> TrainingConfig:
    """The settings: those to start from, and what is said on the command line over them."""
    from graftwork.training.config import TrainingConfig, read_settings

    start = None if asked.settings_file is None else read_settings(asked.settings_file)
    inherited = None
    if asked.like is not None:
        inherited = opened.catalog.resolve(asked.like).manifest.settings
    elif previous is not None and start is None:
        inherited = previous.manifest.settings
    config = TrainingConfig.parse(
        inherited=inherited,
        start=start,
        strategy=asked.strategy,
        seed=asked.seed,
        adaptation=asked.adaptation,
        assignments=[*(asked.assignments or ()), *(["tasks.compare_single=true"] if asked.compare_single else ())],
    )
    return config if previous is None else config.model_copy(update={"strategy": previous.strategy})


def _read_chain(opened: Services, parent: str | None) -> tuple[Artifact, ...]:
    """The adapter that a reference means now, its parent and so on; none for no reference."""
    from graftwork.registry.chain import read_ancestors

    if parent is None:
        return ()
    version = opened.catalog.resolve(parent)
    refuse_to_generate(version, "training on top of it")
    found = opened.catalog.read(version)
    return (found, *read_ancestors(opened.catalog.read, found))


def _base_of(opened: Services, base: str | None, ancestors: Sequence[Artifact]) -> str:
    """The base model to train on: the one asked for, or the parent's."""
    if not ancestors:
        assert base is not None
        opened.bases.resolve(base)
        return base
    made_for = ancestors[0].manifest.base
    if base is not None and opened.bases.resolve(base).fingerprint != made_for:
        raise SettingsInvalid(
            f"the parent was made for the base model {opened.bases.resolve(made_for).reference}, not for {base}",
            remedy="Leave --base out: a child has its parent's.",
        )
    return made_for


def _expected_latest(opened: Services, asked: TrainRequest, name: str, previous: AdapterVersion | None) -> int | None:
    """The version that must still be the newest when the next one is published.

    The gate of an adapter that goes on compares with what is there now; what somebody publishes meanwhile it has not
    seen. Under another name there is nothing to replace.
    """
    expected = asked.expected_latest
    if asked.resume:
        # A run that is resumed may itself have published the version that is there.
        return expected
    if expected is None and previous is not None and name == f"{previous.tenant}/{previous.name}":
        expected = opened.catalog.resolve(name).version
    if expected is not None:
        # Publishing checks it too; who is late already need not train first.
        opened.catalog.expect_latest(name, expected)
    return expected
