"""What `cutaway inspect` is given: a run, a checkpoint, or a model in any format that is read."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.report import format_bytes

if TYPE_CHECKING:
    from cutaway.assets import AssetStatus
    from cutaway.config import ModelConfig
    from cutaway.runs import Checkpoint, Run
    from cutaway.weights import ModelSource

__all__ = ["OpenedModel", "AbsentModel", "open_subject"]


@dataclass(frozen=True)
class OpenedModel:
    """A model that no run of ours made, described from its headers."""

    name: str
    source: ModelSource
    asset: AssetStatus | None = None
    """What the catalogue says of it, None for a model that is not of it."""

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.source.path

    @property
    def model_config(self) -> ModelConfig:
        """Its shape."""
        return self.source.config

    @cached_property
    def n_bytes(self) -> int:
        """The size of its file, or of the files of its folder."""
        files = [self.path] if self.path.is_file() else [file for file in self.path.iterdir() if file.is_file()]
        return sum(file.stat().st_size for file in files)

    @cached_property
    def tokenizer(self) -> str:
        """Its tokenizer's kind and size in words."""
        tokenizer = self.source.tokenizer()
        return f"{tokenizer.kind}, {tokenizer.d_vocab:,} tokens" if tokenizer else "none"

    def lines(self) -> dict[str, str]:
        """Return what there is to say of it, a line each."""
        stored = self.source.stored()
        dtypes = ", ".join(sorted({tensor.dtype for tensor in stored.values()}))
        n_numbers = sum(math.prod(tensor.shape) for tensor in stored.values())
        return {
            "path": str(self.path),
            "format": self.source.kind,
            **self.source.details(),
            "size": f"{format_bytes(self.n_bytes)}, {len(stored)} tensors of {n_numbers:,} numbers in {dtypes}",
            "tokenizer": self.tokenizer,
            "chat template": "yes" if self.source.chat_template() else "none",
            **(_catalogue_lines(self.asset) if self.asset else {}),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the same, with every tensor, as values that JSON can hold."""
        stored = {name: {"dtype": tensor.dtype, "shape": list(tensor.shape)} for name, tensor in self.source.stored().items()}
        described = {"kind": self.source.kind, "n_bytes": self.n_bytes, "details": self.source.details(), "tensors": stored}
        return described | ({"asset": asdict(self.asset)} if self.asset else {})


@dataclass(frozen=True)
class AbsentModel:
    """A model of the catalogue that is not downloaded: its shape is known without it."""

    asset: AssetStatus
    path: None = None
    tokenizer: str = "not downloaded"

    @property
    def name(self) -> str:
        """Its name in the catalogue."""
        return self.asset.name

    @property
    def model_config(self) -> ModelConfig:
        """Its shape, that of the model size with its name."""
        from cutaway.config import ModelConfig

        return ModelConfig.preset(self.name)

    def lines(self) -> dict[str, str]:
        """Return what there is to say of it, a line each."""
        return {
            "about": self.asset.about,
            "weights": f"not downloaded: `cutaway download {self.name}`",
            **_catalogue_lines(self.asset),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON says of it beside its shape."""
        return {"kind": "not downloaded", "asset": asdict(self.asset)}


def _catalogue_lines(asset: AssetStatus) -> dict[str, str]:
    """Return what the catalogue says of a model: how it may be used, what it needs, and of each file the hash and all sources."""
    lines = {"licence": asset.licence, "memory": f"{format_bytes(asset.memory_bytes)} for the weights in float32"}
    for file in asset.files:
        size = [format_bytes(file.n_bytes)] if file.n_bytes else []
        sha256 = f"sha256 {file.sha256}" if file.sha256 else "sha256 as the hub has it when it is fetched"
        name = file.name if len(asset.files) > 1 else "file"
        lines[name] = "; ".join([*size, sha256, f"from {', or '.join(file.sources)}"])
    return lines


def open_subject(name: str, *, config: Path | None = None) -> Run | Checkpoint | OpenedModel | AbsentModel:
    """Return what `weights.resolve` takes a name for; `config` is the shape of a state that does not hold it.

    Nothing is fetched. Raises ValueError as `resolve` and `open_model` do, and for a shape given of a model that has its own.
    """
    from cutaway import assets
    from cutaway.runs import Checkpoint, Run
    from cutaway.weights import open_model, read_config, resolve

    found = resolve(name)
    if config is not None and not isinstance(found, Path):
        raise ValueError(f"the shape of {name} is known: leave out --config")
    if isinstance(found, Run | Checkpoint):
        return found
    asset = None
    if isinstance(found, assets.Asset):
        asset = assets.status_of(found.name)
        if (files := assets.locate(found.name)) is None:
            return AbsentModel(asset)
        first = next(iter(files.values()))
        found = first if len(files) == 1 else first.parent
    source = open_model(found, config=None if config is None else read_config(config))
    return OpenedModel(name.rstrip("/").rpartition("/")[2], source, asset)
