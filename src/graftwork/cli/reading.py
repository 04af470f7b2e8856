"""Reading files of labelled rows as the options of a verb say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graftwork.data.dataset import Dataset

TEXT, LABEL = "text", "label"
"""Columns of texts and labels unless others are named."""


@dataclass(frozen=True)
class Reader:
    """How files of rows are read.

    Attributes:
        text: column of the texts.
        label: column of the labels.
        encoding: of the files; detected if None.
        delimiter: of CSV files; detected if None.
        skip_bad: leave out media files that cannot be read.
    """

    text: str = TEXT
    label: str = LABEL
    encoding: str | None = None
    delimiter: str | None = None
    skip_bad: bool = False

    def read(self, file: Path | str, *, label: str | None = None) -> Dataset:
        """The labelled rows of a file.

        Args:
            file: the file, or a folder with a folder per class.
            label: column of the labels, where it is another.

        Raises:
            ColumnsMissing: if there are no such columns.
            DataUnreadable: if it cannot be read.
        """
        from graftwork.data.read import read_dataset

        column = label or self.label
        return self._usable(
            read_dataset(file, text=self.text, label=column, encoding=self.encoding, delimiter=self.delimiter)
        )

    def read_unlabelled(self, file: Path) -> Dataset:
        """The rows without labels of a file."""
        from graftwork.data.unlabelled import read_unlabelled

        return self._usable(read_unlabelled(file, text=self.text, encoding=self.encoding, delimiter=self.delimiter))

    def _usable(self, rows: Dataset) -> Dataset:
        from graftwork.data.clean import without_unreadable

        return without_unreadable(rows) if self.skip_bad else rows

    def holds_conversations(self, file: Path) -> bool:
        """Whether a file holds conversations, unless its columns were named, as those of a classifier are."""
        from graftwork.data.chatrows import holds_conversations

        return (self.text, self.label) == (TEXT, LABEL) and file.is_file() and holds_conversations(file, self.encoding)
