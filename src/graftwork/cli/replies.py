"""Adapters that generate: asking and judging them, and refusing what is of classifiers alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from graftwork.errors import ModelUnsupported, SettingsInvalid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graftwork.backbones.backbone import Backbone
    from graftwork.backbones.causal import CausalModel
    from graftwork.backbones.chat import Chat, Template
    from graftwork.evaluation.replies import RepliesEvaluation
    from graftwork.registry.artifact import Artifact
    from graftwork.registry.base_rows import BaseModel
    from graftwork.registry.manifest import BaseBits
    from graftwork.registry.versions import AdapterVersion
    from graftwork.wiring import Services

MAX_NEW_TOKENS = 128


def generates(version: AdapterVersion) -> bool:
    """Whether an adapter answers with text; classifiers have labels."""
    return not version.labels


def refuse_to_generate(version: AdapterVersion, verb: str) -> None:
    """For verbs that are about classifiers.

    Raises:
        ModelUnsupported: if the adapter generates.
    """
    if generates(version):
        raise ModelUnsupported(
            f"{version.reference} generates text, and {verb} is about classifiers",
            remedy=f'Ask it with graft predict {version.reference} "prompt"; graft show tells how to serve it.',
        )


def refuse_to_classify(version: AdapterVersion, given: Sequence[str]) -> None:
    """Options of generation given for a classifier.

    Raises:
        SettingsInvalid: with all of them.
    """
    if given:
        raise SettingsInvalid(
            f"{version.reference} is a classifier and generates nothing, so {', '.join(given)} has no effect",
            remedy="Leave it out, or ask an adapter that was trained on conversations.",
        )


def open_language_model(
    opened: Services, base: BaseModel, template: Template, *, bits: BaseBits | None = None
) -> tuple[CausalModel, Chat]:
    """The base with its output layer, and its way to write conversations."""
    from graftwork.backbones.causal import open_causal
    from graftwork.backbones.chat import load_chat

    backbone = opened.backbone(base, bits=bits)
    folder = opened.bases.fetch(base)
    return open_causal(backbone, folder), load_chat(backbone, folder, template)


def print_replies(name: str, evaluation: RepliesEvaluation) -> None:
    """The table beside the unadapted base."""
    from graftwork.cli.console import print_evaluation_table
    from graftwork.evaluation.replies import replies_table

    print_evaluation_table(replies_table(evaluation, name=name))


def stored_evaluation(version: AdapterVersion) -> RepliesEvaluation | None:
    """How it was judged when it was trained."""
    from graftwork.evaluation.replies import RepliesEvaluation

    metrics = version.manifest.metrics
    return None if metrics is None else RepliesEvaluation.model_validate(metrics)


def merged_replies(backbone: Backbone, artifact: Artifact, base: Path, to: Path) -> list[str]:
    """Write the base with the update in its weights, as a causal language model of its own; gives the files' names."""
    from graftwork.backbones.causal import open_causal
    from graftwork.training.export_causal import export_causal

    return export_causal(open_causal(backbone, base), artifact, base, to)


def answer_prompts(
    opened: Services,
    version: AdapterVersion,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    as_json: bool,
) -> None:
    """Generate a response to each prompt and print it, on a console as it comes."""
    from graftwork.cli.console import print_json
    from graftwork.training.replying import replies

    model, chat = open_language_model(opened, opened.bases.resolve(version.base), _template(version))

    def shown(piece: str) -> None:
        sys.stdout.write(piece)
        sys.stdout.flush()

    results = []
    for reply in replies(
        model,
        chat,
        opened.catalog.read(version),
        prompts,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        told=None if as_json else shown,
    ):
        results.append({"prompt": reply.prompt, "response": reply.text, "tokens": reply.tokens, "ended": reply.ended})
        if not as_json:
            shown("\n" if reply.ended else f" … (cut at {max_new_tokens} tokens)\n")
    if as_json:
        print_json({"model": version.reference, "digest": version.digest, "results": results})


def judge_replies(opened: Services, version: AdapterVersion, file: Path, encoding: str | None) -> RepliesEvaluation:
    """Judge a published adapter on conversations, against its unadapted base."""
    from graftwork.cli.console import print_findings
    from graftwork.data.chatrows import read_conversations
    from graftwork.training.replying import judge_on

    chats = read_conversations(file, encoding)
    model, chat = open_language_model(opened, opened.bases.resolve(version.base), _template(version))
    evaluation, findings = judge_on(model, chat, opened.catalog.read(version), chats)
    if "--json" not in sys.argv:
        print_findings(findings)
    return evaluation


def tell_judged(opened: Services, version: AdapterVersion, file: Path, encoding: str | None, *, as_json: bool) -> None:
    """Judge it and print what was found."""
    from graftwork.cli.console import print_json

    judged = judge_replies(opened, version, file, encoding)
    if as_json:
        print_json({"model": version.reference, "digest": version.digest, "evaluation": judged})
    else:
        print_replies(version.reference, judged)


def _template(version: AdapterVersion) -> Template:
    return "plain" if version.manifest.template is None else "chat"
