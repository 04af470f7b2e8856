"""Conversations as token ids, by the base model's own chat template or plainly one after the other.

Training and answering tokenise alike: everything up to a response is what a model is given when it is asked, and a
response is tokenised by itself, as it is generated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from graftwork.backbones.quiet import quiet_transformers
from graftwork.data.conversations import RESPONSE, Conversation, Message
from graftwork.errors import DataRejected, ModelUnsupported, Problem, SettingsInvalid

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone

Template = Literal["chat", "plain"]


class Rendered(NamedTuple):
    """A conversation as the model reads it.

    Attributes:
        ids: token ids.
        wanted: whether a token belongs to a response, which is learned, `[len(ids)]`.
    """

    ids: list[int]
    wanted: list[bool]


class Chat:
    """A way to write conversations for a model.

    Args:
        tokenizer: transformers' tokenizer of the base.
        encode: token ids of a text, without special tokens around it.
        template: `chat` takes the base's own template; `plain` writes the prompt, a line end and the response.

    Attributes:
        template: as given.
        digest: SHA-256 of the base's template; None for `plain`.
        ends: token ids that end a response.

    Raises:
        ModelUnsupported: if the base has no chat template, or no token that ends a text.
    """

    def __init__(self, tokenizer: Any, encode: Callable[[str], list[int]], template: Template) -> None:
        self._tokenizer = tokenizer
        self._encode = encode
        self.template = template
        if tokenizer.eos_token_id is None:
            raise ModelUnsupported(
                "the base's tokenizer has no token that ends a text, so a model could not learn to stop",
                remedy="Take another base, or put eos_token into its tokenizer_config.json.",
            )
        self.ends = (int(tokenizer.eos_token_id),)
        self.digest: str | None = None
        if template == "chat":
            if not isinstance(tokenizer.chat_template, str):
                raise ModelUnsupported(
                    "the base has no chat template, so it is not known how it wants conversations written",
                    remedy="Write prompts and responses plainly (--set generation.template=plain), or take an "
                    "instruction-tuned base.",
                )
            self.digest = hashlib.sha256(tokenizer.chat_template.encode()).hexdigest()

    def prompt(self, messages: Conversation) -> list[int]:
        """Token ids after which a response is expected.

        Raises:
            DataRejected: if the template refuses the messages.
            SettingsInvalid: if `plain` is asked to write more than one prompt.
        """
        return self._encode(self._text(messages, asking=True))

    def row(self, messages: Conversation) -> Rendered:
        """A whole conversation; every response and the token that ends it is wanted.

        Raises:
            DataRejected: if the template refuses the messages, or writes earlier turns otherwise when later ones
                follow, so that responses cannot be told apart.
            SettingsInvalid: if `plain` is asked to write more than a prompt and a response.
        """
        ids: list[int] = []
        wanted: list[bool] = []

        def add(more: list[int], *, response: bool) -> None:
            ids.extend(more)
            wanted.extend([response] * len(more))

        written = 0
        for place, message in enumerate(messages):
            if message.role != RESPONSE:
                continue
            before = self._text(messages[:place], asking=True)
            after = self._text(messages[: place + 1], asking=False)
            if not after.startswith(before) or (self.template == "chat" and not self._agrees(messages, after)):
                raise DataRejected(
                    "the base's chat template writes earlier turns otherwise when later ones follow, so responses "
                    "cannot be told apart",
                    remedy="Give one prompt and one response a row, or set generation.template=plain.",
                )
            add(self._encode(before[written:]), response=False)
            response, rest = self._cut(after[len(before) :])
            add(self._ended(self._encode(response)), response=True)
            written = len(after) - len(rest)
        return Rendered(ids, wanted)

    def text(self, ids: Sequence[int]) -> str:
        """The text of a response, without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def _text(self, messages: Conversation, *, asking: bool) -> str:
        if self.template == "plain":
            return _plain(messages, asking=asking)
        given = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return str(self._tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=asking))
        except Exception as error:  # whatever Jinja and the template's own code raise
            raise DataRejected(
                "the base's chat template refuses a conversation",
                problems=[Problem(type(error).__name__, next(iter(str(error).splitlines()), ""))],
                remedy="Change the roles and their order, or set generation.template=plain.",
            ) from error

    def _agrees(self, messages: Conversation, after: str) -> bool:
        return self._text(messages, asking=False).startswith(after)

    def _cut(self, response: str) -> tuple[str, str]:
        """A response with the mark of its end, and what the template writes behind that, which nobody generates."""
        head, mark, rest = response.partition(self._tokenizer.eos_token)
        return (head + mark, rest) if mark else (response, "")

    def _ended(self, ids: list[int]) -> list[int]:
        return ids if ids[-1:] == [self.ends[0]] else [*ids, self.ends[0]]


def asked(prompt: str) -> Conversation:
    """A conversation of one prompt."""
    return (Message("user", prompt),)


def load_chat(backbone: Backbone, folder: Path, template: Template) -> Chat:
    """The way to write conversations for a base.

    Args:
        backbone: the base; its tokenizer gives the ids.
        folder: its files.
        template: the way.

    Raises:
        ModelUnsupported: if the base has no such template.
    """
    from transformers import AutoTokenizer

    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if backbone.tokenizer is None:
        raise ModelUnsupported("the base reads no texts, so it has no prompts", remedy="Take a language model.")
    return Chat(tokenizer, backbone.tokenizer.pieces, template)


def _plain(messages: Conversation, *, asking: bool) -> str:
    roles = [message.role for message in messages]
    if roles != (["user"] if asking else ["user", RESPONSE]):
        raise SettingsInvalid(
            "generation.template=plain writes a prompt and a response, no system messages and no further turns",
            remedy="Give rows of one prompt and one response, or take a base with a chat template.",
        )
    return "".join(f"{message.content}\n" if message.role == "user" else message.content for message in messages)
