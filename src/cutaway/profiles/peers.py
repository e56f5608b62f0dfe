"""The other programs that are at hand, and how to give those that are not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from cutaway.profiles.hugging_face import HuggingFace
from cutaway.profiles.nanogpt import NanoGPT
from cutaway.profiles.revision import revision_of
from cutaway.profiles.transformer_lens import TransformerLens

__all__ = ["Peers", "open_peers"]

_COMPARED: dict[str, tuple[str, ...]] = {
    "train": ("nanoGPT",),
    "forward": ("transformers", "TransformerLens"),
    "decode": ("transformers",),
    "sweep": ("TransformerLens",),
}
"""With whom each work is compared."""

_HOW_TO_GIVE = {
    "nanoGPT": "give a clone of it by --nanogpt DIR",
    "transformers": "install it into this environment (pip install transformers)",
    "TransformerLens": "give a Python that has it by --transformer-lens PYTHON",
}


@dataclass(frozen=True, kw_only=True)
class Peers:
    """What there is to compare with."""

    has_transformers: bool = False
    nanogpt: NanoGPT | None = None
    transformer_lens: TransformerLens | None = None

    def absent(self, *works: str) -> list[str]:
        """Return for each program that these works could be compared with, and that is not here, a sentence on how to give it."""
        here = {"nanoGPT": self.nanogpt, "transformers": self.has_transformers, "TransformerLens": self.transformer_lens}
        wanted = dict.fromkeys(name for work in works for name in _COMPARED[work])
        return [f"{name} is left out: {_HOW_TO_GIVE[name]}" for name in wanted if not here[name]]

    def versions(self) -> dict[str, str]:
        """Return the version of each program, or for a clone its commit."""
        found = {"transformers": version("transformers")} if self.has_transformers else {}
        if self.nanogpt is not None:
            found["nanoGPT"] = revision_of(self.nanogpt.folder / "model.py")
        if self.transformer_lens is not None:
            found["TransformerLens"] = self.transformer_lens.versions["transformer_lens"]
            found["TransformerLens's torch"] = self.transformer_lens.versions["torch"]
        return found


@contextmanager
def open_peers(*, nanogpt: Path | None = None, transformer_lens: Path | None = None) -> Iterator[Peers]:
    """Give the programs that are here, and end the processes of those that have one afterwards.

    Raises ValueError for a folder that is no clone of nanoGPT, and for a Python without TransformerLens.
    """
    with ExitStack() as stack:
        yield Peers(
            has_transformers=HuggingFace.is_installed(),
            nanogpt=None if nanogpt is None else NanoGPT(nanogpt),
            transformer_lens=None if transformer_lens is None else stack.enter_context(TransformerLens(transformer_lens)),
        )
