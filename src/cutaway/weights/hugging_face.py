"""A model as a folder in Hugging Face's format: `config.json`, one or several safetensors files, and a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cutaway.model import Transformer
from cutaway.runtime import atomic_path
from cutaway.tokenizers import NoTokenizer, Tokenizer, read_tokenizer_folder, write_tokenizer_json
from cutaway.values import read_object
from cutaway.weights.families import HEAD, Family, family_for, family_of
from cutaway.weights.folder import save_tensors
from cutaway.weights.renaming import Renaming, from_theirs, to_theirs
from cutaway.weights.source import ModelSource, StoredTensor, located

__all__ = ["HuggingFaceFolder", "Speaking", "save_hugging_face"]

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16}


class HuggingFaceFolder(ModelSource):
    """A folder that the transformers library writes or its hub holds, of a family in `families.py`.

    Raises ValueError for a folder that lacks files, holds damaged ones, or a model that is not supported.
    """

    kind: ClassVar[str] = "Hugging Face folder"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / "config.json").is_file():
            raise ValueError(f"{self.path} holds no config.json, so it is no Hugging Face folder")
        settings = read_object(self.path / "config.json")
        with located(self.path / "config.json"):
            self._family = family_of(settings)
            self.config = self._family.config_from_hf(settings)
        self._stored, self._file_of = _read_headers(self.path)
        with located(self.path):
            self._rows = self._family.match({name: stored.shape for name, stored in self._stored.items()}, self.config)
            _check_types({name: self._stored[name] for name in self._rows})

    def stored(self) -> dict[str, StoredTensor]:
        """Return every tensor of the files by its name there, from their headers."""
        return dict(self._stored)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield cutaway's names and tensors, the largest first: each is for a moment in memory twice, and most have room then.

        Raises ValueError where a tied unembedding is there all the same and is another than the embedding.
        """
        self._check_tied()
        yield from from_theirs(self._rows, self._read_each())

    def tokenizer(self) -> Tokenizer | None:
        """Return the tokenizer of the folder's files, None where there is none; raises ValueError for one that cannot be read."""
        if not any((self.path / name).is_file() for name in ("tokenizer.json", "vocab.json", "tokenizer.model")):
            return None
        return read_tokenizer_folder(self.path)

    def chat_template(self) -> str | None:
        """Return the template in `chat_template.jinja`, or else the one in `tokenizer_config.json`."""
        if (path := self.path / "chat_template.jinja").is_file():
            with located(path):
                return path.read_text(encoding="utf-8")
        if not (path := self.path / "tokenizer_config.json").is_file():
            return None
        template = read_object(path).get("chat_template")
        if isinstance(template, list):  # several, each with its name
            named = {str(each.get("name")): each.get("template") for each in template if isinstance(each, dict)}
            template = named.get("default")
        if template is not None and not isinstance(template, str):
            raise ValueError(f"{path}: chat_template is {template!r}; expected a text")
        return template

    def details(self) -> dict[str, str]:
        """Return the family and the files."""
        files = sorted({path.name for path in self._file_of.values()})
        return {"family": self._family.name, "files": files[0] if len(files) == 1 else f"{len(files)} safetensors files"}

    def _read_each(self) -> Iterator[tuple[str, Tensor]]:
        # a file is opened anew for each tensor: the pages of an open one stay in memory as they are read
        for name in sorted(self._rows, key=lambda name: -_n_bytes(self._stored[name])):
            with _opened(self._file_of[name]) as file:
                yield name, file.get_tensor(name)

    def _check_tied(self) -> None:
        embedding = next(name for name, row in self._rows.items() if row.ours == ("embed.W_E",))
        if HEAD in self._rows or HEAD not in self._stored:
            return
        with _opened(self._file_of[HEAD]) as head, _opened(self._file_of[embedding]) as embed:
            W_U, W_E = head.get_tensor(HEAD), embed.get_tensor(embedding)
            if W_U.dtype != W_E.dtype or not torch.equal(W_U, W_E):
                raise ValueError(
                    f"{self.path}: {HEAD} is another tensor than {embedding}, although the configuration ties them; "
                    "where both are meant, set tie_word_embeddings to false in config.json"
                )


@runtime_checkable
class Speaking(Protocol):
    """What a `LanguageModel`, a floor above, is made of."""

    @property
    def model(self) -> Transformer:
        """The transformer."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer whose ids it reads."""

    @property
    def chat_template(self) -> str | None:
        """How a conversation is written, None for a model that was not trained on any."""


def save_hugging_face(lm: Speaking, folder: str | Path, *, max_shard_bytes: int = 5_000_000_000) -> None:
    """Write a language model, its tokenizer and chat template with it, as a folder that the transformers library loads.

    What is loaded there computes the same function. The folder is written whole or not at all. Raises ValueError for a shape that no
    family has, naming the settings, for a tokenizer that their format cannot hold, and for a folder that is not empty.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} is there already; give the name of a folder that is new or empty")
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes is {max_shard_bytes}; expected at least 1")
    family = family_for(lm.model.config)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        _write_weights(lm.model, family, temporary, max_shard_bytes)
        _write_object(temporary / "config.json", _settings(lm, family))
        if not isinstance(lm.tokenizer, NoTokenizer):
            write_tokenizer_json(lm.tokenizer, temporary)
        if lm.chat_template is not None:
            (temporary / "chat_template.jinja").write_text(lm.chat_template, encoding="utf-8")


def _settings(lm: Speaking, family: Family) -> dict[str, Any]:
    return {
        **family.config_to_hf(lm.model.config),
        "torch_dtype": str(lm.model.embed.W_E.dtype).removeprefix("torch."),
        # null where there is none: the library would take numbers of its own
        "bos_token_id": lm.tokenizer.bos,
        "eos_token_id": lm.tokenizer.eos,
    }


def _write_weights(model: Transformer, family: Family, folder: Path, max_shard_bytes: int) -> None:
    weights = {name: weight.detach() for name, weight in model.named_parameters()}  # a tied unembedding is not among them
    rows = family.rows_of(model.config)
    sizes = {name: sum(weights[ours].nbytes for ours in row.ours) for name, row in rows.items()}
    shards = _shards(sizes, max_shard_bytes)
    files = [_WEIGHTS] if len(shards) == 1 else [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    for shard, file in zip(shards, files, strict=True):
        here: dict[str, Renaming] = {name: rows[name] for name in shard}
        ours = [(name, weights[name].cpu()) for row in here.values() for name in row.ours]
        save_tensors(dict(to_theirs(here, ours)), folder / file)
    if len(shards) > 1:
        places = {name: file for shard, file in zip(shards, files, strict=True) for name in shard}
        _write_object(folder / _INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places})


def _shards(sizes: dict[str, int], max_bytes: int) -> list[list[str]]:
    """Put names in files in their order, each filled until the next would be too much."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _read_headers(folder: Path) -> tuple[dict[str, StoredTensor], dict[str, Path]]:
    """Return what the headers of a folder's files say of every tensor, and the file that each is in."""
    stored: dict[str, StoredTensor] = {}
    file_of: dict[str, Path] = {}
    for path, expected in _weight_files(folder).items():
        with _opened(path) as file:
            here = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            headers = {name: StoredTensor(each.get_dtype(), tuple(each.get_shape())) for name, each in here.items()}
        if missing := sorted(expected - headers.keys()):
            raise ValueError(f"{path} lacks {missing[0]}, which {_INDEX} says is in it")
        if twice := sorted(headers.keys() & stored.keys()):
            raise ValueError(f"{twice[0]} is in {path} and in {file_of[twice[0]]}; expected it once")
        stored |= headers
        file_of |= dict.fromkeys(headers, path)
    return stored, file_of


def _check_types(weights: dict[str, StoredTensor]) -> None:
    for name, stored in weights.items():
        if stored.dtype not in _BITS:
            raise ValueError(f"{name} is of type {stored.dtype}; expected {', '.join(_BITS)}, as quantised weights are not read")


def _weight_files(folder: Path) -> dict[Path, set[str]]:
    """Return the files of a folder's weights, each with the tensors that the index puts there."""
    if (folder / _WEIGHTS).is_file():
        return {folder / _WEIGHTS: set()}
    if not (folder / _INDEX).is_file():
        if pickles := sorted(path.name for path in folder.glob("pytorch_model*.bin")):
            raise ValueError(
                f"{folder} holds its weights as {pickles[0]} alone, a pickle, which can run code when it is read; get the same model "
                f"as {_WEIGHTS}, or write it anew with the transformers library's save_pretrained"
            )
        raise ValueError(f"{folder} holds neither {_WEIGHTS} nor {_INDEX}, so there are no weights to read")
    places = read_object(folder / _INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{folder / _INDEX} has no weight_map, which says what tensor is in what file")
    files: dict[Path, set[str]] = {}
    for name, file in places.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise ValueError(f"{folder / _INDEX} puts {name} in {file!r}; expected a safetensors file of the same folder")
        if not (folder / file).is_file():
            raise ValueError(f"{folder / _INDEX} puts {name} in {file}, which is not there; get the missing file")
        files.setdefault(folder / file, set()).add(name)
    return files


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no safetensors file: {error}") from None


def _n_bytes(stored: StoredTensor) -> int:
    return prod(stored.shape) * _BITS[stored.dtype] // 8


def _write_object(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
