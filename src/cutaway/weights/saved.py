"""A model as cutaway saves it: a checkpoint of a run, or a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from cutaway.runs import Checkpoint
from cutaway.tokenizers import Tokenizer, load_tokenizer
from cutaway.weights.folder import stream_tensors
from cutaway.weights.source import ModelSource, StoredTensor

__all__ = ["SavedModel"]


class SavedModel(ModelSource):
    """A checkpoint, of which what is read here is held against the hashes recorded with it; the optimizer's averages are not."""

    kind = "cutaway checkpoint"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.path, self.config, self._checkpoint = checkpoint.path, checkpoint.model_config, checkpoint

    def stored(self) -> dict[str, StoredTensor]:
        """Return every tensor by its name, from the file's header."""
        return {name: StoredTensor(*found) for name, found in self._checkpoint.tensors().items()}

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield names and tensors one after the other."""
        self._checkpoint.verify(("config.json", "model.safetensors"))
        yield from stream_tensors(self.path / "model.safetensors")

    def tokenizer(self) -> Tokenizer | None:
        """Return the tokenizer in the folder, or else that of the run; raises ValueError for a run that has lost it."""
        if (file := self._beside("tokenizer.json")) is not None:
            return load_tokenizer(file)
        run = self._checkpoint.run
        return None if run is None else load_tokenizer(run.file("tokenizer.json"))

    def chat_template(self) -> str | None:
        """Return the template in the folder, or else that of the run."""
        file = self._beside("chat_template.jinja")
        return None if file is None else file.read_text(encoding="utf-8")

    def _beside(self, name: str) -> Path | None:
        run = self._checkpoint.run
        folders = [self.path] if run is None else [self.path, run.path]
        return next((folder / name for folder in folders if (folder / name).is_file()), None)
