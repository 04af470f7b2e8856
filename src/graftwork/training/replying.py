"""Asking a published adapter that generates, and judging it on conversations, with its base in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graftwork.adaptation.causal import for_decoder
from graftwork.adaptation.lora import Lora
from graftwork.backbones.belonging import check_belongs
from graftwork.backbones.chat import asked
from graftwork.errors import DataRejected, Problem, SettingsInvalid
from graftwork.evaluation.replies import RepliesEvaluation, evaluate_replies
from graftwork.training.chatrows import encode_chats
from graftwork.training.responses import measure_responses

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from graftwork.backbones.causal import CausalModel
    from graftwork.backbones.chat import Chat
    from graftwork.data.conversations import Conversations
    from graftwork.data.findings import Finding
    from graftwork.registry.artifact import Artifact


@dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
        prompt: what was asked.
        text: the answer, without special tokens.
        tokens: how many were generated, the one that ends it among them.
        ended: it came to its end by itself.
    """

    prompt: str
    text: str
    tokens: int
    ended: bool


@contextmanager
def adapted(model: CausalModel, chat: Chat, artifact: Artifact) -> Iterator[None]:
    """The adapter in place on the base for the block.

    Raises:
        BaseMismatch: if it was made for another base or chat template.
        ArtifactInvalid: if its files are not what its manifest says.
    """
    manifest = artifact.manifest
    artifact.check()
    unlike = (
        [] if manifest.template == chat.digest else [Problem("manifest.json, template", "is another chat template")]
    )
    check_belongs(manifest, model.backbone, also=unlike)
    with Lora().restore(model.backbone, for_decoder(artifact.files, model.prefix)):
        yield


def replies(
    model: CausalModel,
    chat: Chat,
    artifact: Artifact,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    told: Callable[[str], None] | None = None,
) -> Iterator[Reply]:
    """The adapter's answers, one after the other; a prompt's answer does not depend on the others.

    Args:
        model: the base.
        chat: writes prompts for it.
        artifact: the adapter.
        prompts: what is asked.
        max_new_tokens: most tokens of an answer.
        temperature: 0 takes the most probable token.
        seed: of what is drawn, otherwise.
        told: given each piece of text as it comes.

    Raises:
        DataRejected: if a prompt is empty.
        SettingsInvalid: if a prompt and its answer do not fit into the model's length; all such prompts are listed.
        BaseMismatch, ArtifactInvalid: see `adapted`.
    """
    empty = [Problem(f"prompt {place}", "is empty") for place, text in enumerate(prompts, start=1) if not text.strip()]
    if empty:
        raise DataRejected("there is nothing to answer", problems=empty, remedy="Give prompts with words in them.")
    encoded = [chat.prompt(asked(text)) for text in prompts]
    limit = model.backbone.max_length
    long = [
        Problem(f"prompt {place}", f"has {len(ids):,} tokens")
        for place, ids in enumerate(encoded, start=1)
        if len(ids) + max_new_tokens > limit
    ]
    if long:
        raise SettingsInvalid(
            f"a prompt and {max_new_tokens:,} new tokens do not fit into the {limit:,} tokens of the base",
            problems=long,
            remedy="Shorten the prompts, or ask for fewer new tokens (--max-new-tokens).",
        )
    stops = {*chat.ends, *model.ends}
    with adapted(model, chat, artifact):
        for prompt, ids in zip(prompts, encoded, strict=True):
            pieces = None if told is None else _Pieces(chat, told)
            new = model.generate(
                ids, max_new_tokens=max_new_tokens, ends=chat.ends, temperature=temperature, seed=seed, told=pieces
            )
            if pieces is not None:
                pieces.rest()
            yield Reply(prompt, chat.text(new), len(new), new[-1:] != [] and new[-1] in stops)


def judge_on(
    model: CausalModel, chat: Chat, artifact: Artifact, chats: Conversations
) -> tuple[RepliesEvaluation, list[Finding]]:
    """How well an adapter expects the responses of conversations, against its base; and what of them was cut.

    Raises:
        DataRejected: if the conversations cannot be written for the base.
        BaseMismatch, ArtifactInvalid: see `adapted`.
    """
    import numpy as np

    findings: list[Finding] = []
    kept, rendered = encode_chats(chats, chat, max_length=artifact.manifest.max_length, findings=findings)
    tokens: NDArray[np.int64] = np.array([sum(row.wanted) for row in rendered], dtype=np.int64)
    base = measure_responses(model, rendered)
    with adapted(model, chat, artifact):
        own = measure_responses(model, rendered)
    return evaluate_replies(own, base, tokens, dataset_digest=kept.digest), findings


class _Pieces:
    """Tokens as they come to text as it can be shown: a character may take several tokens."""

    def __init__(self, chat: Chat, told: Callable[[str], None]) -> None:
        self._chat = chat
        self._told = told
        self._ids: list[int] = []
        self._shown = ""

    def __call__(self, token: int) -> None:
        self._ids.append(token)
        text = self._chat.text(self._ids)
        if not text.endswith("\ufffd") and text.startswith(self._shown):
            self._told(text[len(self._shown) :])
            self._shown = text

    def rest(self) -> None:
        """Show what is left of a character that was not finished."""
        text = self._chat.text(self._ids)
        self._told(text[len(self._shown) :])
