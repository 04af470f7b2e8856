"""Conversations to learn from: prompts with the responses that are wanted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")
RESPONSE: Role = "assistant"


class Message(NamedTuple):
    """One turn.

    Attributes:
        role: who speaks: `system`, `user` or `assistant`, whose turns are the responses to learn.
        content: what is said.
    """

    role: Role
    content: str


Conversation = tuple[Message, ...]


@dataclass(frozen=True)
class Conversations:
    """Conversations, each remembering the row it came from. The last turn of each is a response.

    Attributes:
        turns: the messages of each.
        rows: where each stood in its source, counted from 1 as an editor shows it.
        source: the file they came from, for messages.

    Example:
        >>> chats = Conversations.from_pairs(["2 + 2?", "3 + 3?"], ["4", "6"])
        >>> chats.select([1]).turns[0][-1].content
        '6'
    """

    turns: tuple[Conversation, ...]
    rows: tuple[int, ...]
    source: str

    @classmethod
    def from_pairs(cls, prompts: Sequence[str], responses: Sequence[str], source: str = "memory") -> Conversations:
        """One prompt and one response each; rows count from 1."""
        turns = tuple(
            (Message("user", prompt), Message(RESPONSE, response))
            for prompt, response in zip(prompts, responses, strict=True)
        )
        return cls(turns, tuple(range(1, len(turns) + 1)), source)

    def __len__(self) -> int:
        return len(self.turns)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all messages in order; row numbers and the source's name do not count."""
        state = hashlib.sha256()
        for turns in self.turns:
            state.update(json.dumps(turns, ensure_ascii=True).encode("ascii"))
        return state.hexdigest()

    def select(self, indices: Iterable[int]) -> Conversations:
        """The conversations at these positions, in this order."""
        chosen = [int(index) for index in indices]
        return Conversations(
            tuple(self.turns[place] for place in chosen), tuple(self.rows[place] for place in chosen), self.source
        )

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """What is asked in each, white space and case levelled: who asks the same has the same prompt."""
        return tuple(
            "\n".join(" ".join(turn.content.casefold().split()) for turn in turns if turn.role != RESPONSE)
            for turns in self.turns
        )
