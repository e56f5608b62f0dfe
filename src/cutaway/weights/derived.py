"""Models of the catalogue in the form that opens fastest: of a quantised file the weights are made once and kept in the cache."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cutaway.assets import Asset, File, fetch
from cutaway.assets.cache import Shelf
from cutaway.assets.retrieval import obtain
from cutaway.assets.sources import Provenance, Report, Request, Source, SourceError
from cutaway.tokenizers import Tokenizer, load_tokenizer
from cutaway.weights.folder import stream_tensors
from cutaway.weights.gguf_file import GGUFFile
from cutaway.weights.hugging_face import HuggingFaceFolder
from cutaway.weights.source import ModelSource, StoredTensor

__all__ = ["catalogue_source", "dequantised", "DequantisedGGUF", "CONVERTER"]

CONVERTER = "dequantise 1"
"""The converter's version: what another made is made again. It goes up when the weights or the tokenizer come out different."""


def catalogue_source(model: Asset, *, report: Report | None = None) -> ModelSource:
    """Fetch a model of the catalogue, unless the cache holds it, and open it in the form that is read fastest.

    Raises AssetError when it cannot be had or the cache cannot be written.
    """
    paths = list(fetch(model.name, report=report).values())
    if paths[0].suffix == ".gguf":
        return dequantised(model, GGUFFile(paths[0]), report=report)
    return HuggingFaceFolder(paths[0].parent)


class DequantisedGGUF(ModelSource):
    """A GGUF file, which describes the model, beside the folder of weights that were made of it."""

    kind = GGUFFile.kind

    def __init__(self, original: GGUFFile, folder: Path) -> None:
        self.original, self.folder = original, folder
        self.path, self.config = original.path, original.config

    def stored(self) -> dict[str, StoredTensor]:
        """Return every tensor of the GGUF file by its name there."""
        return self.original.stored()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield cutaway's names and tensors in float32, read from the folder one after the other."""
        yield from stream_tensors(self.folder / "model.safetensors")

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer as the folder has it, which is read ten times faster than the metadata."""
        return load_tokenizer(self.folder / "tokenizer.json")

    def chat_template(self) -> str | None:
        """Return the Jinja template in the metadata, None where there is none."""
        return self.original.chat_template()

    def details(self) -> dict[str, str]:
        """Return what the GGUF file says of itself."""
        return self.original.details()


def dequantised(model: Asset, gguf: GGUFFile, *, report: Report | None = None) -> DequantisedGGUF:
    """Return a GGUF model of the catalogue beside its folder in float32, as `save_model` writes one, with tokenizer and template.

    The folder is made when the cache does not hold it whole, or holds what another file or converter made: its files are held to size,
    time and sha256 as those that are fetched. Raises AssetError when the cache cannot be written; nothing half-written counts then.
    """
    asset = _float32(model, gguf, sha256=Shelf(model).expected_sha256(model.files[0]))
    obtain(asset, report=report)
    return DequantisedGGUF(gguf, Shelf(asset).folder)


def _float32(original: Asset, gguf: GGUFFile, *, sha256: str | None) -> Asset:
    """Describe the folder as an asset whose files are made of a file with that hash."""
    writers: dict[str, _Write] = {
        "config.json": _write_config,
        "model.safetensors": _write_weights,
        "tokenizer.json": _write_tokenizer,
    }
    if gguf.chat_template() is not None:
        writers["chat_template.jinja"] = _write_chat_template
    files = [File(name, (_Made(gguf, f"{CONVERTER} of {sha256}", write),)) for name, write in writers.items()]
    return Asset(f"{original.name}-float32", "model", about=original.about, licence=original.licence, files=tuple(files))


_Write = Callable[[GGUFFile, Path, Report], None]


@dataclass(frozen=True)
class _Made(Source):
    """One file of the folder, made of a GGUF file; `version` names converter and file."""

    gguf: GGUFFile
    version: str
    write_file: _Write

    def __str__(self) -> str:
        return f"made of {self.gguf.path.name}"

    @property
    def converter(self) -> str:
        """The converter's version and the hash of the file."""
        return self.version

    def write(self, target: Path, request: Request) -> Provenance:
        """Write the file, or nothing."""
        try:
            self.write_file(self.gguf, target, request.report)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        return Provenance(source=str(self), converter=self.converter)


def _write_config(gguf: GGUFFile, target: Path, _report: Report) -> None:
    target.write_text(json.dumps(gguf.config.to_dict(), indent=2), encoding="utf-8")


def _write_tokenizer(gguf: GGUFFile, target: Path, _report: Report) -> None:
    if (tokenizer := gguf.tokenizer()) is None:
        raise SourceError("it holds no tokenizer")
    tokenizer.save(target)


def _write_chat_template(gguf: GGUFFile, target: Path, _report: Report) -> None:
    target.write_text(gguf.chat_template() or "", encoding="utf-8")


def _write_weights(gguf: GGUFFile, target: Path, report: Report) -> None:
    """Write safetensors tensor by tensor, where the library's own writer wants all of them in memory at once."""
    header, places = _safetensors_header(gguf.shapes)
    total = len(header) + 4 * sum(map(math.prod, gguf.shapes.values()))
    n_done = 0
    with target.open("wb") as file:
        n_done += file.write(header)
        for name, tensor in gguf.tensors():
            file.seek(len(header) + places[name])
            n_done += file.write(tensor.numpy().data)
            report(n_done, total, target.stem)


def _safetensors_header(shapes: Mapping[str, torch.Size]) -> tuple[bytes, dict[str, int]]:
    """Return the header of a file of float32 tensors, and where each begins after it. Source: huggingface/safetensors, README."""
    places: dict[str, int] = {}
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        places[name], end = end, end + 4 * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [places[name], end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, places
