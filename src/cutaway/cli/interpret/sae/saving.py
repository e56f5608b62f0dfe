"""What was trained, kept also where its folder cannot be written in the end."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cutaway.interp.sae import Dictionary, DictionaryConfig, LearningCurve

__all__ = ["check_room", "save_trained"]


def check_room(folders: Sequence[Path], shapes: Sequence[DictionaryConfig]) -> None:
    """Refuse, before anything is computed, folders that dictionaries of these shapes could not be written into."""
    import torch

    from cutaway import runtime
    from cutaway.interp.sae import make_dictionary

    n_bytes = 0
    for shape in shapes:
        with torch.device("meta"):
            n_bytes += sum(each.nbytes for each in make_dictionary(shape).state_dict().values())
    for folder in folders:
        runtime.check_room(folder, n_bytes)


def save_trained(trained: Sequence[tuple[Dictionary, LearningCurve]], folders: Sequence[Path], *, model: str = "") -> None:
    """Write each dictionary; from a folder on that cannot be written any more, into the folder for temporary files.

    Raises OSError then, with where they are, or that they are lost.
    """
    for place, (folder, one) in enumerate(zip(folders, trained, strict=True)):
        try:
            _save(one, folder, model)
        except OSError as error:
            kept = _kept(dict(zip(folders, trained, strict=True)), folders[place:], model)
            raise OSError(f"{folder} could not be written ({_said(error)}): {kept}") from error


def _kept(trained: dict[Path, tuple[Dictionary, LearningCurve]], folders: Sequence[Path], model: str) -> str:
    """Write dictionaries where there may be room for them, and return in words where that is."""
    try:
        place = Path(tempfile.mkdtemp(prefix="cutaway-"))
        for folder in folders:
            _save(trained[folder], place / folder.name, model)
    except OSError as error:
        return f"what was trained is lost, as {tempfile.gettempdir()} could not be either ({_said(error)})"
    return f"what was trained is in {place / folders[0].name if len(folders) == 1 else place} instead"


def _save(one: tuple[Dictionary, LearningCurve], folder: Path, model: str) -> None:
    from cutaway.interp.sae import save_dictionary

    save_dictionary(one[0], folder, curve=one[1].to_json(), model=model)


def _said(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
