"""`graft train` on conversations: the base learns to answer, not to classify."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from graftwork.cli.replies import open_language_model, print_replies
from graftwork.cli.training.exclusions import refuse_beside_conversations
from graftwork.cli.training.publishing import RunOptions, run_and_publish

if TYPE_CHECKING:
    from collections.abc import Callable

    from graftwork.cli.progress import DrawnProgress
    from graftwork.cli.training.ground import Ground
    from graftwork.cli.training.request import TrainRequest
    from graftwork.data.conversations import Conversations
    from graftwork.registry.versions import AdapterVersion
    from graftwork.training.instructions import TrainedReplies
    from graftwork.training.runs import Run
    from graftwork.wiring import Services


def train_to_answer(opened: Services, asked: TrainRequest, ground: Ground) -> None:
    """Train on a file of conversations, publish the result and tell of it.

    Raises:
        SettingsInvalid: with every option that does not go with conversations.
    """
    from graftwork.cli.console import print_json
    from graftwork.cli.describe import describe_adapter
    from graftwork.data.chatrows import read_conversations

    assert asked.file is not None
    refuse_beside_conversations(asked, asked.file)
    chats = read_conversations(asked.file, asked.encoding)
    test = None if asked.test is None else read_conversations(asked.test, asked.encoding)
    published, trained = _train_and_publish(opened, ground, chats, test, RunOptions.of(asked))
    if asked.as_json:
        print_json(describe_adapter(published, with_manifest=True))
    else:
        _tell(published, trained)


def _train_and_publish(
    opened: Services, ground: Ground, chats: Conversations, test: Conversations | None, options: RunOptions
) -> tuple[AdapterVersion, TrainedReplies]:
    from graftwork.training.instructions import check_settings, train_replies

    ground = replace(ground, config=check_settings(ground.config))

    def load(progress: DrawnProgress) -> Callable[[DrawnProgress, Run], TrainedReplies]:
        config = ground.config
        progress.note(f"{chats.source} holds conversations: learning to answer, not to classify")
        model, chat = open_language_model(
            opened, opened.bases.resolve(ground.base), config.generation.template, bits=config.base_dtype
        )
        train = partial(train_replies, model, chat, chats, test=test, config=config)
        return lambda progress, run: train(progress=progress, run=run)

    return run_and_publish(opened, ground, options, source=chats.source, load=load)


def _tell(published: AdapterVersion, trained: TrainedReplies) -> None:
    """What was trained, in words."""
    from graftwork.cli.console import file_size, print_findings, say

    print_findings(trained.findings)
    if trained.evaluation is not None:
        print_replies(published.reference, trained.evaluation)
    say(f"{trained.artifact.manifest.decision}.")
    say(
        "Published ",
        (published.reference, "bold green"),
        f", which generates, digest {published.digest[:12]}, {file_size(published.size_bytes)} "
        f"({published.size_bytes / published.base_size_bytes:.2%} of the base), "
        f"in {published.record['total_seconds']:.1f} s.",
    )
    name = f"{published.tenant}/{published.name}"
    say(f'Next: graft predict {name} "your prompt"  ·  graft show {name}  tells how to serve it')
