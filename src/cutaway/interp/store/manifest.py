"""The manifest of a store: what it is made of, and which of its shards are whole."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cutaway import runtime
from cutaway.interp.store.plan import DTYPES, StorePlan
from cutaway.interp.store.stream import TokenStream
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.runs import values_sha256
from cutaway.runtime import atomic_write
from cutaway.tokenizers import tokenizer_hash
from cutaway.values import said_of_json
from cutaway.weights import model_sha256

__all__ = ["Manifest", "ShardRecord", "shard_name", "describe", "check_folder"]

_FORMAT = "cutaway activation store 1"
_FILE = "manifest.json"
_MAY_DIFFER = ("versions", "source")
"""What may be another when a store is gone on with: it changes no row."""


@dataclass(frozen=True)
class ShardRecord:
    """A shard that is whole: its size and the sha256 of its bytes."""

    n_bytes: int
    sha256: str


@dataclass
class Manifest:
    """A store's description and its finished shards, as `manifest.json` holds them."""

    folder: Path
    about: dict[str, Any]
    shards: dict[int, ShardRecord] = field(default_factory=dict)
    index: int = 0
    """Which of several processes writes it: all but the first keep what they made in a hidden file beside it until all are done."""

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """Read it, and what several processes left beside it; None where there is none. Raises ValueError for a damaged one."""
        if not (folder / _FILE).is_file():
            return None
        found = cls._read(folder / _FILE)
        for path in sorted(folder.glob(_beside("*"))):
            found.shards |= cls._read(path).shards
        return found

    @classmethod
    def _read(cls, path: Path) -> Manifest:
        try:
            values = {**json.loads(path.read_text(encoding="utf-8"))}
            recorded, found = values.pop("sha256", None), values.get("format")
            if found != _FORMAT:
                raise ValueError(f"its format is {found!r}, expected {_FORMAT!r}")  # noqa: TRY301
            if recorded != values_sha256(values):
                raise ValueError("it was changed or damaged since it was written")  # noqa: TRY301
            shards = {int(number): ShardRecord(**record) for number, record in values.pop("shards").items()}
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} describes no store of activations: {said_of_json(error)}") from None
        return cls(path.parent, values, shards)

    def write(self) -> None:
        """Write it, whole or not at all; nothing in it depends on how often the store was interrupted, or by how many it is made."""
        shards = {str(number): vars(self.shards[number]) for number in sorted(self.shards)}
        values = {**self.about, "shards": shards}
        file = _beside(self.index) if self.index else _FILE
        atomic_write(self.folder / file, json.dumps({**values, "sha256": values_sha256(values)}, indent=2))

    def take_in(self) -> None:
        """Take over what other processes left beside it, and remove that."""
        there = Manifest.read(self.folder)
        self.shards |= there.shards if there else {}
        self.write()
        for path in self.folder.glob(_beside("*")):
            path.unlink()

    def plan(self) -> StorePlan:
        """Return the plan that the store was begun with."""
        about, layout = self.about, self.about["layout"]
        return StorePlan(
            shapes={name: tuple(shape) for name, shape in about["activations"].items()},
            dtype=DTYPES[about["dtype"]],
            n_tokens=about["data"]["n_tokens"],
            n_ctx=layout["n_ctx"],
            skip_first=layout["skip_first"],
            batch_size=layout["batch_size"],
            windows_per_shard=layout["windows_per_shard"],
        )

    def missing(self) -> list[int]:
        """Return the shards that are not whole: not written yet, lost, or of another size than was written."""
        return [shard for shard in range(self.plan().n_shards) if not self._is_whole(shard)]

    def check_same(self, described: dict[str, Any]) -> None:
        """Raise ValueError, saying what differs, for a description of another store than this one."""
        begun, asked = dict(_flat(self.about)), dict(_flat(described))
        differing = [name for name in {**begun, **asked} if begun.get(name) != asked.get(name) and not _may_differ(name)]
        if not differing:
            return
        pairs = zip(_in_words(self.about), _in_words(described), strict=True)
        said = [f"{mine}, not {theirs}" for (is_mine, mine), (is_theirs, theirs) in pairs if is_mine != is_theirs]
        if begun.get("data n_tokens") != asked.get("data n_tokens"):  # of other tokens the text is another, too
            said = [each for each in said if not each.startswith("the text ")]
        said = said or [f"{name} {_shown(begun.get(name))}, not {_shown(asked.get(name))}" for name in differing]
        raise ValueError(
            f"the store in {self.folder} was begun with {'; '.join(said)}: give the same to go on, or a folder of its own"
        )

    def _is_whole(self, shard: int) -> bool:
        path, record = self.folder / shard_name(shard), self.shards.get(shard)
        return record is not None and path.is_file() and path.stat().st_size == record.n_bytes


def _beside(index: int | str) -> str:
    return f".manifest-{index}.json"


def shard_name(shard: int) -> str:
    """Return the name of a shard's file."""
    return f"shard-{shard:05d}.safetensors"


def describe(lm: LanguageModel | Transformer, stream: TokenStream, plan: StorePlan, *, source: str) -> dict[str, Any]:
    """Return all that a store's rows follow from, as JSON values; `source` is what the model is called."""
    model, tokenizer = (lm.model, lm.tokenizer) if isinstance(lm, LanguageModel) else (lm, None)
    dtype = str(plan.dtype).removeprefix("torch.")
    return {
        "format": _FORMAT,
        "model": {"source": source, "sha256": model_sha256(model), "config": model.config.to_dict()},
        "data": {"source": stream.source, "sha256": stream.sha256(), "n_tokens": plan.n_tokens},
        "tokenizer": None if tokenizer is None else {"kind": tokenizer.kind, "sha256": tokenizer_hash(tokenizer)},
        "activations": {name: list(shape) for name, shape in plan.shapes.items()},
        "dtype": dtype,
        "n_rows": plan.n_rows,
        "layout": {
            "n_ctx": plan.n_ctx,
            "skip_first": plan.skip_first,
            "batch_size": plan.batch_size,
            "windows_per_shard": plan.windows_per_shard,
        },
        "machine": {"device": model.embed.W_E.device.type, "n_threads": torch.get_num_threads(), "torch": torch.__version__},
        "versions": {"cutaway": version("cutaway"), "python": platform.python_version()},
    }


def check_folder(folder: Path, n_shards: int) -> None:
    """Raise ValueError for a folder that a store is not to be written into: a file, or one that holds other things."""
    runtime.check_folder(folder, "the store", {_FILE, *map(shard_name, range(n_shards))})


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return the values by their names, inner ones after the outer: `data sha256`."""
    found = []
    for name, value in values.items():
        found += _flat(value, f"{prefix}{name} ") if isinstance(value, dict) else [(prefix + name, value)]
    return found


def _in_words(about: dict[str, Any]) -> list[tuple[Any, str]]:
    """Return what a store is made of, to compare and as a person says it; what follows from it, as the number of rows, is left out."""
    layout, data, model, machine = about["layout"], about["data"], about["model"], about["machine"]
    names, tokenizer = ", ".join(sorted(about["activations"])), about["tokenizer"]
    return [
        ((about["activations"], about["dtype"]), f"{names} in {about['dtype']}"),
        (model["sha256"], f"the model {model['source']} (sha256 {model['sha256'][:12]})".replace("  ", " ")),
        (
            tokenizer,
            "no tokenizer" if tokenizer is None else f"a {tokenizer['kind']} tokenizer (sha256 {tokenizer['sha256'][:12]})",
        ),
        (data["sha256"], f"the text {data['source']} (sha256 {data['sha256'][:12]})"),
        (data["n_tokens"], f"{data['n_tokens']:,} tokens"),
        (layout["n_ctx"], f"windows of {layout['n_ctx']} tokens"),
        (layout["batch_size"], f"{layout['batch_size']} windows a run"),
        (layout["skip_first"], f"the first position {'left out' if layout['skip_first'] else 'kept'}"),
        (machine, f"{machine['n_threads']} threads of torch {machine['torch']} on {machine['device']}"),
    ]


def _may_differ(name: str) -> bool:
    return any(word in _MAY_DIFFER for word in name.split())


def _shown(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text[:12] if len(text) == 64 else text  # a hash
