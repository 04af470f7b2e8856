"""The conversations of a run: encoded, cut to the model's length, split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from graftwork.backbones.chat import Rendered
from graftwork.data.dataset import Dataset
from graftwork.data.findings import Finding
from graftwork.data.split import split_dataset
from graftwork.errors import DataRejected, GraftworkError, Problem

if TYPE_CHECKING:
    from graftwork.backbones.chat import Chat
    from graftwork.data.conversations import Conversations
    from graftwork.training.config import TrainingConfig

_MOST_PROBLEMS = 20


@dataclass(frozen=True)
class Side:
    """Conversations that are used alike.

    Attributes:
        rendered: each, encoded.
        tokens: response tokens of each, int64 `[rows]`.
        digest: of the conversations.
    """

    rendered: Sequence[Rendered]
    tokens: NDArray[np.int64]
    digest: str

    def __len__(self) -> int:
        return len(self.rendered)


@dataclass(frozen=True)
class PreparedChats:
    """Conversations to train, to stop and to judge on. No prompt stands on two sides, unless tests were given.

    Attributes:
        train: learned from.
        validation: decide when training stops.
        test: the final judgement; empty when none was wanted.
        test_held_out: the test rows were held out of the training file, not given.
        findings: what was cut or left out.
    """

    train: Side
    validation: Side
    test: Side
    test_held_out: bool
    findings: tuple[Finding, ...]


def prepare_chats(
    chats: Conversations, test: Conversations | None, config: TrainingConfig, chat: Chat, *, max_length: int
) -> PreparedChats:
    """Encode, cut and split.

    Args:
        chats: conversations to learn from.
        test: conversations to judge on; without them `config.test_share` is held out.
        config: shares and seed.
        chat: writes them for the base.
        max_length: tokens the model may see.

    Raises:
        DataRejected: if the template refuses rows, or too few are left.
    """
    findings: list[Finding] = []
    chats, rendered = encode_chats(chats, chat, max_length=max_length, findings=findings)
    places = np.arange(len(chats))
    judged: list[int] = []
    if test is None and config.test_share > 0:
        places, judged = _held_out(chats, places, config.test_share, config.seed)
    train, validation = _held_out(chats, places, config.validation_share, config.seed)
    if not len(train) or not validation:
        raise DataRejected(
            f"{chats.source}: {len(chats)} usable conversations are too few to learn from and to judge on",
            remedy="Give more rows with different prompts: a few hundred are a good beginning.",
        )

    def side(chosen: Sequence[int] | NDArray[np.int64]) -> Side:
        return _side(chats.select(chosen), [rendered[place] for place in chosen])

    if test is None:
        tested = side(judged)
    else:
        findings += _overlap(chats, test)
        tested = _side(*encode_chats(test, chat, max_length=max_length, findings=findings))
    return PreparedChats(side(train), side(validation), tested, test is None, tuple(findings))


def encode_chats(
    chats: Conversations, chat: Chat, *, max_length: int, findings: list[Finding]
) -> tuple[Conversations, list[Rendered]]:
    """Conversations as token ids; the beginning of those that are too long is cut off.

    Args:
        chats: the conversations.
        chat: writes them for the base.
        max_length: tokens the model may see.
        findings: told of what was cut, and of what was left out because its last response does not fit.

    Returns:
        Those that are left, and the ids of each.

    Raises:
        DataRejected: with the rows that the template refuses, or when none is left.
    """
    rendered = _rendered(chats, chat)
    cut = [_cut(row, max_length) for row in rendered]
    shortened = [place for place, row in enumerate(cut) if row is not None and row is not rendered[place]]
    lost = [place for place, row in enumerate(cut) if row is None]
    if shortened:
        what = f"are longer than {max_length:,} tokens; their beginning was cut off"
        remedy = "Shorten the prompts, or raise max_length if the base allows it."
        findings.append(_warning("prompt-cut", chats, shortened, what, remedy))
    if lost:
        what = f"were left out: the response alone does not fit into {max_length:,} tokens"
        remedy = "Shorten the responses, or raise max_length if the base allows it."
        findings.append(_warning("response-too-long", chats, lost, what, remedy))
    kept = [place for place, row in enumerate(cut) if row is not None]
    if not kept:
        raise DataRejected(
            f"{chats.source}: no response fits into {max_length:,} tokens", remedy="Raise max_length, or shorten them."
        )
    return chats.select(kept), [row for row in cut if row is not None]


def _rendered(chats: Conversations, chat: Chat) -> list[Rendered]:
    """All conversations as token ids, whole.

    Raises:
        DataRejected: with the rows that the template refuses.
    """
    rendered, problems, remedy = [], [], ""
    for row, turns in zip(chats.rows, chats.turns, strict=True):
        try:
            rendered.append(chat.row(turns))
        except DataRejected as error:
            why = "; ".join(filter(None, (error.message, *(str(problem) for problem in error.problems))))
            problems.append(Problem(f"{chats.source}, row {row}", why))
            remedy = error.remedy
    if problems:
        raise DataRejected(
            f"{chats.source}: {len(problems):,} conversations cannot be written for this base",
            problems=problems[:_MOST_PROBLEMS],
            remedy=remedy,
        )
    return rendered


def _warning(code: str, chats: Conversations, places: Sequence[int], what: str, remedy: str) -> Finding:
    return Finding(
        code=code,
        severity="warning",
        message=f"{len(places):,} of {len(chats):,} conversations in {chats.source} {what}",
        count=len(places),
        rows=tuple(chats.rows[place] for place in places[:5]),
        remedy=remedy,
    )


def _cut(row: Rendered, max_length: int) -> Rendered | None:
    """The row within the limit: its end, as long as its last response is whole; None otherwise."""
    if len(row.ids) <= max_length:
        return row
    ids, wanted = row.ids[-max_length:], row.wanted[-max_length:]
    if all(wanted):
        return None
    return Rendered(ids, [False, *wanted[1:]])


def _side(chats: Conversations, rendered: Sequence[Rendered]) -> Side:
    return Side(rendered, np.array([sum(row.wanted) for row in rendered], dtype=np.int64), chats.digest)


def _held_out(
    chats: Conversations, places: NDArray[np.int64], share: float, seed: int
) -> tuple[NDArray[np.int64], list[int]]:
    """Split places in two so that rows with the same prompt stay together."""
    chosen = chats.select(places)
    _, groups = np.unique(np.array(chosen.prompts, dtype=object), return_inverse=True)
    alike = Dataset.from_lists(chosen.prompts, [""] * len(chosen))
    try:
        kept, held = split_dataset(alike, groups=groups, share=share, seed=seed)
    except GraftworkError as error:
        raise DataRejected(f"{chats.source}: {error.message}", remedy=error.remedy) from error
    return places[kept], places[held].tolist()


def _overlap(chats: Conversations, test: Conversations) -> list[Finding]:
    known = set(chats.prompts)
    rows = [row for row, prompt in zip(test.rows, test.prompts, strict=True) if prompt in known]
    if not rows:
        return []
    return [
        Finding(
            code="test-overlap",
            severity="warning",
            message=f"{len(rows):,} prompts of {test.source} are among those trained on, so it is judged too well",
            count=len(rows),
            rows=tuple(rows[:5]),
            remedy="Take them out of one of the files.",
        )
    ]
