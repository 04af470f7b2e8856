"""What `graft train` says of an adapter that it has published."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graftwork.cli.tasks import print_tasks

if TYPE_CHECKING:
    from graftwork.registry.versions import AdapterVersion
    from graftwork.training.job import Trained


def tell_trained(published: AdapterVersion, trained: Trained, *, as_json: bool) -> None:
    """How it was judged, what was chosen, and what it took."""
    from graftwork.cli.console import file_size, print_evaluation_table, print_findings, print_json, say
    from graftwork.cli.describe import describe_adapter
    from graftwork.evaluation.tables import forgetting_table, quality_table

    if as_json:
        print_json(describe_adapter(published, with_manifest=True))
        return
    print_findings(trained.report.findings)
    if trained.artifact.manifest.tasks:
        print_tasks(trained.artifact.manifest)
    if trained.evaluation is not None:
        print_evaluation_table(quality_table(trained.evaluation, name=published.reference))
        if trained.evaluation.forgetting:
            print_evaluation_table(forgetting_table(trained.evaluation.forgetting))
    if trained.artifact.manifest.decision:
        say(f"Chosen: {trained.artifact.manifest.decision}.")
    say(
        "Published ",
        (published.reference, "bold green"),
        f" ({published.strategy}), digest {published.digest[:12]}, {file_size(published.size_bytes)} "
        f"({published.size_bytes / published.base_size_bytes:.2%} of the base), "
        f"in {published.record['total_seconds']:.1f} s, "
        f"{published.record['seconds']['load']:.1f} s of them for loading libraries and the base model.",
    )
    name = f"{published.tenant}/{published.name}"
    say(f'Next: graft predict {name} "your text"  ·  graft report {name}  ·  graft serve')


def tell_way_back(published: AdapterVersion, previous: AdapterVersion) -> None:
    """Say how the version before comes back."""
    from graftwork.cli.console import say

    say(
        f"The version before comes back with graft rm {published.reference}, "
        f"or with graft alias {previous.reference} ALIAS where an alias is asked for."
    )
