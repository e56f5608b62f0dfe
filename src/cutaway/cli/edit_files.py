"""Edits that a file holds, as the command line is given them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cutaway.interp.edits import Edit

__all__ = ["read_edits"]


def read_edits(path: Path) -> list[Edit]:
    """Return the edits of a JSON file, a list of what `Edit.to_dict` returns; raises ValueError for a file that holds none."""
    from cutaway.interp.edits import Edit

    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no UTF-8, or no JSON
        raise ValueError(f"{path} is no JSON ({error}): give a list of edits, as json.dumps([edit.to_dict()]) writes it") from None
    each = [written] if isinstance(written, dict) else written
    if not isinstance(each, list) or not each or not all(isinstance(one, dict) for one in each):
        raise ValueError(f'{path} holds no edits: give a list of them, such as [{{"kind": "zero", "name": "blocks.0.attn_out"}}]')
    try:
        return [Edit.from_dict(one) for one in each]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None
