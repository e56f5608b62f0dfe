"""Labelled texts as the command line names them: a file, or texts that come with cutaway."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cutaway.interp.probing import LabelledFile

__all__ = ["read_labelled_data"]


def read_labelled_data(data: str) -> LabelledFile:
    """Return the texts of a name or of a JSON lines file, with their labels; raises ValueError for what is no such file."""
    from cutaway.experiments.labelled_texts import LABELLED_TEXTS
    from cutaway.interp.probing import LabelledFile, read_labelled

    if data not in LABELLED_TEXTS:
        return read_labelled(data)
    made = LABELLED_TEXTS[data]()
    return LabelledFile(made.texts, made.labels, made.groups)
