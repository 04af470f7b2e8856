"""What `graft train` does for adapters on top of adapters, and for those it goes on with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graftwork.cli.replies import refuse_to_generate
from graftwork.errors import Problem, SettingsInvalid

if TYPE_CHECKING:
    from graftwork.registry.artifact import Artifact
    from graftwork.registry.versions import AdapterVersion
    from graftwork.wiring import Services


def read_chain(opened: Services, parent: str | None) -> tuple[Artifact, ...]:
    """The adapter that a reference means now, its parent and so on; none for no reference."""
    from graftwork.registry.chain import read_ancestors

    if parent is None:
        return ()
    version = opened.catalog.resolve(parent)
    refuse_to_generate(version, "training on top of it")
    found = opened.catalog.read(version)
    return (found, *read_ancestors(opened.catalog.read, found))


def base_of(opened: Services, base: str | None, ancestors: Sequence[Artifact]) -> str:
    """The base model to train on: the one asked for, or the parent's.

    Raises:
        SettingsInvalid: if another than the parent's is said.
    """
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


def refuse_missing(*, name: str | None, base: str | None, parent: str | None) -> None:
    """What has to be said of an adapter that is not continued.

    Raises:
        SettingsInvalid: with everything that is not.
    """
    missing = ["'--name'"] if name is None else []
    missing += ["'--base' (or '--parent')"] if base is None and parent is None else []
    if missing:
        raise SettingsInvalid(
            f"missing option{'s' if len(missing) > 1 else ''} {' and '.join(missing)}",
            remedy="graft train --help tells what there is.",
        )


def refuse_beside_continue(**given: object) -> None:
    """What an adapter that is continued has already, or what its gate says instead."""
    problems = [
        Problem(f"--{name.replace('_', '-')}", "cannot be given with it") for name, value in given.items() if value
    ]
    if problems:
        raise SettingsInvalid(
            "--continue goes on with an adapter as it is", problems=problems, remedy="Leave these out."
        )


def refuse_old_rows(**given: object) -> None:
    """Rows of what was learned before say something of an adapter that goes on, and of no other.

    Raises:
        SettingsInvalid: if any are given.
    """
    asked = [f"--{name}" for name, value in given.items() if value]
    if asked:
        raise SettingsInvalid(
            f"{' and '.join(asked)} go{'es' if len(asked) == 1 else ''} with --continue",
            remedy="Say which adapter to go on with (--continue).",
        )


def newest_to_replace(opened: Services, name: str, previous: AdapterVersion) -> int | None:
    """The version that must still be the newest when the next one is published; None under another name.

    The gate compares with what is there now; what somebody publishes meanwhile it has not seen.
    """
    if name != f"{previous.tenant}/{previous.name}":
        return None
    return opened.catalog.resolve(name).version


def tell_way_back(published: AdapterVersion, previous: AdapterVersion) -> None:
    """Say how the version before comes back."""
    from graftwork.cli.console import say

    say(
        f"The version before comes back with graft rm {published.reference}, "
        f"or with graft alias {previous.reference} ALIAS where an alias is asked for."
    )
