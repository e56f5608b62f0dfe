"""A folder of token shards made of documents: what is in it, in which order, and what all of it follows from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from math import inf
from pathlib import Path
from typing import Any, Literal, Self

from cutaway.data.documents import Place
from cutaway.data.shards import HEADER_BYTES, TokenArray, read_shard, read_shard_manifest, token_dtype
from cutaway.runs import values_sha256
from cutaway.runtime import atomic_write, check_holds, file_sha256
from cutaway.tokenizers import Tokenizer, load_tokenizer
from cutaway.values import said_of_json

__all__ = ["SIDES", "Side", "ShardRecord", "ShardPair", "DocumentShards", "shard_path"]

Side = Literal["train", "validation"]
SIDES: tuple[Side, Side] = ("train", "validation")
"""What a document is for."""

_FORMAT = "cutaway document shards 1"
_FILE = "manifest.json"
_MADE_BY = "`cutaway download --documents PATH --out FOLDER` makes one"
_GROWING: Literal["growing"] = "growing"


@dataclass(frozen=True)
class ShardRecord:
    """A shard that is whole: how much is in it, and the sha256 of its file."""

    n_tokens: int
    n_documents: int
    sha256: str


@dataclass(frozen=True)
class ShardPair:
    """What a stretch of documents gave to train on and to validate with, and the place of the document after it."""

    train: ShardRecord
    validation: ShardRecord
    next: Place

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the pair that a manifest describes; raises TypeError, KeyError or ValueError for what is none."""
        train, validation = (ShardRecord(**values[side]) for side in SIDES)
        return cls(train, validation, Place(**values["next"]))

    def n_bytes(self, itemsize: int) -> int:
        """Return the size of both files, an id taking so many bytes."""
        return 2 * HEADER_BYTES + itemsize * (self.train.n_tokens + self.validation.n_tokens)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"train": asdict(self.train), "validation": asdict(self.validation), "next": self.next._asdict()}


@dataclass(frozen=True)
class DocumentShards:
    """A folder of shards, as its manifest has it at one moment: another process may be adding to them.

    Pair i is `train-00000i.bin` and `validation-00000i.bin`, with the documents that come after those of pair i - 1. `about` is what
    they follow from: the source, the tokenizer, the settings; `limits` how much was asked for; `state` whether that is reached, or
    all that the source has.
    """

    folder: Path
    about: Mapping[str, Any]
    limits: Mapping[str, int | None]
    pairs: tuple[ShardPair, ...] = ()
    state: Literal["growing", "reached", "exhausted"] = _GROWING

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Read the manifest of a folder; raises ValueError where there is none, or one that was changed or damaged."""
        check_holds(Path(folder), _FILE, "no folder of token shards", made_by=_MADE_BY)
        path = Path(folder) / _FILE
        try:
            values = {**json.loads(path.read_text(encoding="utf-8"))}
            if values.get("format") != _FORMAT:
                raise ValueError(f"its format is {values.get('format')!r}, expected {_FORMAT!r}")  # noqa: TRY301
            if values.pop("sha256", None) != values_sha256(values):
                raise ValueError("it was changed or damaged since it was written")  # noqa: TRY301
            pairs = tuple(map(ShardPair.from_dict, values["pairs"]))
            return cls(Path(folder), values["about"], values["limits"], pairs, values["state"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} describes no token shards: {said_of_json(error)}") from None

    def write(self) -> None:
        """Write the manifest, whole or not at all; nothing in it depends on how often the making was interrupted."""
        values: dict[str, Any] = {"format": _FORMAT, "about": self.about, "limits": self.limits, "state": self.state}
        values["pairs"] = [pair.to_dict() for pair in self.pairs]
        atomic_write(self.folder / _FILE, json.dumps({**values, "sha256": values_sha256(values)}, indent=2))

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return replace(self, **changes)

    @staticmethod
    def are_in(folder: str | Path) -> bool:
        """Return whether a folder is one of these: its manifest says so, whole or not."""
        path = Path(folder) / _FILE
        return path.is_file() and _FORMAT in path.read_text(encoding="utf-8", errors="replace")

    @property
    def name(self) -> str:
        """What the documents are called."""
        return str(self.about["source"]["name"])

    @property
    def is_complete(self) -> bool:
        """Whether nothing more will come."""
        return self.state != _GROWING

    @property
    def next(self) -> Place:
        """The place of the first document that no shard has."""
        return self.pairs[-1].next if self.pairs else Place(0, 0)

    @property
    def sha256(self) -> str:
        """What fixes every token, those that are still to come too: the sha256 of what they follow from, and of the first shard.

        How many there are to be is not part of it: more may be added later.
        """
        source = {**self.about["source"], "files": [[each["name"], each["n_bytes"]] for each in self.about["source"]["files"]]}
        first = self.pairs[0].train.sha256 if self.pairs else None
        return values_sha256({**self.about, "source": source, "first": first})

    def n_tokens(self, *sides: Side) -> int:
        """Return how many tokens there are so far, to train on, to validate with, or in all."""
        return sum(getattr(pair, side).n_tokens for pair in self.pairs for side in sides or SIDES)

    def n_documents(self, *sides: Side) -> int:
        """Return how many documents there are so far, as `n_tokens` does."""
        return sum(getattr(pair, side).n_documents for pair in self.pairs for side in sides or SIDES)

    @property
    def n_bytes(self) -> int:
        """The size of all shards so far."""
        return sum(pair.n_bytes(self._itemsize) for pair in self.pairs)

    @property
    def _itemsize(self) -> int:
        return token_dtype(self.about["tokenizer"]["d_vocab"]).itemsize

    def has_all_of(self, limits: Mapping[str, int | None]) -> bool:
        """Return whether there is nothing to make for what is asked: it is there and whole, or the source has no more."""
        return self._covers(limits) and self.n_whole() == len(self.pairs)

    def within(self, cap_bytes: int | None) -> Self:
        """Return the shards as one has them who wants no more than `cap_bytes`, all that the source has unless given.

        They stay the same whatever is added. Raises ValueError where the first pair alone is more than that.
        """
        ends = list(accumulate(pair.n_bytes(self._itemsize) for pair in self.pairs))
        n_pairs = sum(end <= (cap_bytes or inf) for end in ends)
        if ends and not n_pairs:
            raise ValueError(
                f"cap_bytes is {cap_bytes}, and the first pair of shards in {self.folder} has {ends[0]}: give that much"
            )
        limits = {"n_tokens": None, "cap_bytes": cap_bytes}
        is_all = n_pairs < len(ends) or self._covers(limits)
        state = self.state if self.state == "exhausted" and n_pairs == len(ends) else "reached" if is_all else _GROWING
        return self.replace(pairs=self.pairs[:n_pairs], limits=limits, state=state)

    def _covers(self, limits: Mapping[str, int | None]) -> bool:
        """Return whether nothing is to be made for what is asked, if all that is there is whole."""
        if not self.is_complete:
            return False
        cap_bytes, had = limits["cap_bytes"] or inf, self.limits
        is_capped = self.state == "reached" and self.n_tokens() < (had["n_tokens"] or inf)  # the next document did not fit
        is_enough = self.n_tokens() >= (limits["n_tokens"] or inf) or cap_bytes <= self.n_bytes
        return self.state == "exhausted" or is_enough or (is_capped and cap_bytes <= (had["cap_bytes"] or 0))

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer that the ids are of."""
        return load_tokenizer(self.folder / "tokenizer.json")

    def read(self, side: Side, number: int) -> TokenArray:
        """Map one shard's ids; raises ValueError for one that is missing, cut short, or of another tokenizer."""
        if number >= len(self.pairs):
            raise ValueError(f"{self.folder} has {len(self.pairs)} pairs of shards, and no pair {number} yet: make more")
        path, record = shard_path(self.folder, side, number), getattr(self.pairs[number], side)
        if not path.is_file():
            raise ValueError(f"{path} is missing: make the shards again with the same arguments, which makes what is missing")
        tokens, tokenizer = read_shard(path), read_shard_manifest(path).get("tokenizer_sha256")
        if tokenizer not in (None, self.about["tokenizer"]["sha256"]):
            raise ValueError(
                f"{path} was encoded by another tokenizer than the other shards (sha256 {tokenizer[:12]}, not "
                f"{self.about['tokenizer']['sha256'][:12]}): {self._make_again}"
            )
        if len(tokens) != record.n_tokens:
            raise ValueError(f"{path} has {len(tokens):,} tokens where {record.n_tokens:,} were written: {self._make_again}")
        return tokens

    def n_whole(self) -> int:
        """Return how many pairs there are before the first of which a shard is missing or not as long as it was written."""
        for number in range(len(self.pairs)):
            try:
                for side in SIDES:
                    self.read(side, number)
            except ValueError:
                return number
        return len(self.pairs)

    def verify(self) -> Iterator[str]:
        """Read every shard in full and yield a sentence for each that is missing or not as it was written."""
        for number, pair in enumerate(self.pairs):
            for side in SIDES:
                path = shard_path(self.folder, side, number)
                if not path.is_file():
                    yield f"{path} is missing"
                elif file_sha256(path) != getattr(pair, side).sha256:
                    yield f"{path} is not as it was written"

    @property
    def _make_again(self) -> str:
        return "remove it, and make the shards again with the same arguments, which makes what is missing"


def shard_path(folder: Path, side: Side, number: int) -> Path:
    """Return where a shard is or would be."""
    return folder / f"{side}-{number:06d}.bin"
