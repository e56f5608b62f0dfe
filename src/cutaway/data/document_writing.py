"""Documents made token shards, on all cores, under any interruption the same."""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from cutaway.data.document_shards import SIDES, DocumentShards, ShardPair, ShardRecord, Side, shard_path
from cutaway.data.documents import Document, DocumentSource, Place
from cutaway.data.shards import HEADER_BYTES, token_dtype, write_shard_in_pieces
from cutaway.report.numbers import format_bytes
from cutaway.runtime import (
    LOCK,
    FolderBusyError,
    alone_in,
    check_folder,
    clear_unfinished,
    file_sha256,
    n_cores,
    name_file,
    remove_path,
)
from cutaway.tokenizers import END_OF_TEXT, Tokenizer, tokenizer_hash

__all__ = ["write_document_shards", "is_being_written", "side_of", "Progress"]

Progress = Callable[[int, int | None], None]
"""Called with how many tokens there are, and how many are to be; None where that is not known before the source ends."""

_SHARD = re.compile(r"(train|validation)-(\d{6})\.bin(\.json)?")
_AT_ONCE = 2**17
"""Characters that are handed to a thread together: what handing over costs is little beside encoding them."""


def write_document_shards(
    source: DocumentSource,
    folder: str | Path,
    tokenizer: Tokenizer,
    *,
    n_tokens: int | None = None,
    cap_bytes: int | None = None,
    validation_fraction: float = 0.1,
    shard_tokens: int = 10_000_000,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> DocumentShards:
    """Write the documents of a source as token shards into a folder, and return them.

    As in llm.c's shards `<|endoftext|>` comes before each document. `side_of` says for which documents validation is, by their text
    alone: about `validation_fraction` of them. A pair of shards ends with the document that fills the one to train on. It stops with
    the document that makes `n_tokens` in all, before the one that makes the shards more than `cap_bytes` long, or where the source
    ends. `n_workers` threads encode, one a core unless given. Memory holds one pair, and a few documents for each thread.

    A call with the same arguments goes on after what is whole, also once it was killed, to the same bytes; one with higher limits adds
    pairs after those that are there, which stay as they are, so that whoever reads them is not disturbed. Raises ValueError for other
    arguments than the folder was begun with, for files that have changed, for a tokenizer without `<|endoftext|>`, and for documents
    that cannot be read; FolderBusyError while another process writes there; OSError where the disk fails. What is whole stays.
    """
    folder, limits = Path(folder), {"n_tokens": n_tokens, "cap_bytes": cap_bytes}
    _check_settings(tokenizer, validation_fraction, shard_tokens, limits)
    about = _describe(source, tokenizer, validation_fraction, shard_tokens)
    _begun(folder, about, limits)  # what cannot be gone on with is said before anything is made
    check_folder(folder, "the shards", {path.name for path in folder.glob("*") if _is_ours(path)})
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder, "writes the shards in", timeout_s=1):  # who asks whether someone writes holds it for a moment
        clear_unfinished(folder)
        shards = _kept(_begun(folder, about, limits), limits)
        if not shards.is_complete:
            _check_unchanged(source, shards)
            tokenizer.save(folder / "tokenizer.json")
            shards.write()
            shards = _Writing(source, tokenizer, shards, progress or _say_nothing).run(n_workers or n_cores())
    return shards


def is_being_written(folder: Path) -> bool:
    """Return whether a living process adds to the shards of a folder."""
    if not (folder / LOCK).exists():
        return False
    try:
        with alone_in(folder, "writes the shards in"):
            return False
    except FolderBusyError:
        return True


def side_of(text: str, validation_fraction: float) -> Side:
    """Return what a document is for: a hash of its text decides, so that the same text is never on both sides, whatever the order."""
    drawn = int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:8]) / 2**64
    return "validation" if drawn < validation_fraction else "train"


def _check_settings(tokenizer: Tokenizer, validation_fraction: float, shard_tokens: int, limits: dict[str, int | None]) -> None:
    if tokenizer.eot is None:
        raise ValueError(f"the {tokenizer.kind} tokenizer has no {END_OF_TEXT}, which separates documents: give gpt2 or cl100k")
    if not 0 <= validation_fraction < 1:
        raise ValueError(f"validation_fraction is {validation_fraction}; expected at least 0 and less than 1")
    for name, value in {"shard_tokens": shard_tokens, **limits}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1")
    cap, least = limits["cap_bytes"], 2 * HEADER_BYTES + 2**10
    if cap is not None and cap < least:
        raise ValueError(f"cap_bytes is {cap}; two shards with hardly anything in them take {least}: give more")


def _describe(source: DocumentSource, tokenizer: Tokenizer, validation_fraction: float, shard_tokens: int) -> dict[str, Any]:
    """Return all that the shards follow from, as JSON values; what fixes a file's content is added when it is reached."""
    return {
        "source": {
            "name": source.name,
            **source.about,
            "files": [{"name": file.name, "n_bytes": file.n_bytes} for file in source.files],
        },
        "tokenizer": {"kind": tokenizer.kind, "d_vocab": tokenizer.d_vocab, "sha256": tokenizer_hash(tokenizer)},
        "before_each_document": tokenizer.eot,
        "validation_fraction": validation_fraction,
        "shard_tokens": shard_tokens,
    }


def _begun(folder: Path, about: dict[str, Any], limits: dict[str, int | None]) -> DocumentShards:
    """Return what a folder holds, or the beginning of it; raises ValueError, saying what differs, for shards of something else.

    Where no pair is whole yet, there is nothing to go on with: what failed at its first document may be begun anew in any way.
    """
    if not DocumentShards.are_in(folder) or not (shards := DocumentShards.open(folder)).pairs:
        return DocumentShards(folder, about, limits)
    both = zip(_in_words(shards.about), _in_words(about), strict=True)
    if differing := [f"{mine}, not {asked}" for (is_mine, mine), (is_asked, asked) in both if is_mine != is_asked]:
        raise ValueError(
            f"the shards in {folder} were begun with {'; '.join(differing)}: give the same to go on, or a folder of its own"
        )
    return shards


def _in_words(about: Mapping[str, Any]) -> list[tuple[Any, str]]:
    """Return what shards follow from, to compare, and as a person says it; what the source is called changes no token."""
    source, tokenizer = about["source"], about["tokenizer"]
    files = [(file["name"], file["n_bytes"]) for file in source["files"]]
    facts = {name: value for name, value in source.items() if name not in ("name", "files")}
    size = format_bytes(sum(n_bytes for _, n_bytes in files))
    said = [f"{len(files)} file(s) of {size}", *(f"{name} {value}" for name, value in facts.items())]
    return [
        ((files, facts), f"{source['name']} ({', '.join(said)})"),
        (tokenizer, f"a {tokenizer['kind']} tokenizer of {tokenizer['d_vocab']:,} ids (sha256 {tokenizer['sha256'][:12]})"),
        (about["validation_fraction"], f"a validation_fraction of {about['validation_fraction']:g}"),
        (about["shard_tokens"], f"{about['shard_tokens']:,} tokens a shard"),
    ]


def _kept(begun: DocumentShards, limits: dict[str, int | None]) -> DocumentShards:
    """Return of what was begun what stays: from the first pair that is not whole on, all are made anew."""
    if begun.has_all_of(limits):
        return begun
    return begun.replace(pairs=begun.pairs[: begun.n_whole()], limits=limits, state="growing")


def _check_unchanged(source: DocumentSource, shards: DocumentShards) -> None:
    """Raise ValueError where a file that is to be gone on with is not the one that was begun."""
    first = shards.next.file
    for file, recorded in zip(source.files[first:], shards.about["source"]["files"][first:], strict=True):
        known = {name: value for name, value in recorded.items() if name not in ("name", "n_bytes")}
        if known and known != file.identity():
            raise ValueError(f"{file} has changed since the shards in {shards.folder} were begun: bring it back, or begin anew")


class _Encoded(NamedTuple):
    """A document's ids, which side it is on, and where it is."""

    side: Side
    ids: npt.NDArray[np.uint32]
    place: Place


@dataclass
class _Pair:
    """The documents of the pair of shards that is being filled."""

    ids: dict[Side, list[npt.NDArray[np.unsignedinteger[Any]]]] = field(default_factory=lambda: {side: [] for side in SIDES})
    n_tokens: dict[Side, int] = field(default_factory=lambda: dict.fromkeys(SIDES, 0))

    def add(self, document: _Encoded, dtype: np.dtype[Any]) -> None:
        """Take a document in, in as few bytes as will do."""
        self.ids[document.side].append(document.ids.astype(dtype))
        self.n_tokens[document.side] += len(document.ids)


class _Writing:
    """One run over what is missing of the shards of a folder."""

    def __init__(self, source: DocumentSource, tokenizer: Tokenizer, shards: DocumentShards, progress: Progress) -> None:
        self._source, self._tokenizer, self._progress = source, tokenizer, progress
        self._shards, self._pair = shards, _Pair()
        self._dtype = token_dtype(tokenizer.d_vocab)
        n_tokens, cap_bytes = shards.limits["n_tokens"], shards.limits["cap_bytes"]
        self._most_bytes, self._enough = cap_bytes or inf, n_tokens or inf
        expected = min(self._enough, self._most_bytes / self._dtype.itemsize)
        self._expected = None if expected == inf else int(expected)
        self._n_tokens, self._n_bytes = shards.n_tokens(), shards.n_bytes + 2 * HEADER_BYTES  # with the headers of the next pair

    def run(self, n_workers: int) -> DocumentShards:
        """Make pairs until it is enough or the source ends, and return all there are then."""
        if self._n_tokens >= self._enough or self._n_bytes >= self._most_bytes:
            return self._finished("reached", self._shards.next)
        self._progress(self._n_tokens, self._expected)
        encoding = _encoded(self._source.documents(self._shards.next), self._encode, n_workers)
        with closing(encoding) as documents:
            for document in documents:
                n_bytes = self._n_bytes + self._dtype.itemsize * len(document.ids)
                if n_bytes > self._most_bytes:
                    return self._finished("reached", document.place)
                after = Place(document.place.file, document.place.row + 1)
                self._pair.add(document, self._dtype)
                self._n_bytes, self._n_tokens = n_bytes, self._n_tokens + len(document.ids)
                if self._n_tokens >= self._enough:
                    return self._finished("reached", after)
                if self._pair.n_tokens["train"] >= self._shards.about["shard_tokens"]:
                    self._shards = self._with_pair(after)
                    self._shards.write()
                    self._n_bytes += 2 * HEADER_BYTES
                self._progress(self._n_tokens, self._expected)
        return self._finished("exhausted", Place(len(self._source.files), 0))

    def _finished(self, state: Literal["reached", "exhausted"], after: Place) -> DocumentShards:
        """Write what is left, and that nothing more comes; raises ValueError where there is nothing at all."""
        shards = self._with_pair(after) if any(self._pair.n_tokens.values()) else self._shards
        if not shards.pairs:
            why = "holds no text" if state == "exhausted" else "begins with a document that alone is more than the cap"
            raise ValueError(f"{self._source.name} {why}: nothing was written")
        shards = shards.replace(state=state)
        shards.write()
        for path in shards.folder.glob("*.bin*"):  # of more that there were before
            if (match := _SHARD.fullmatch(path.name)) and int(match[2]) >= len(shards.pairs):
                remove_path(path)
        self._progress(self._n_tokens, self._expected)
        return shards

    def _with_pair(self, after: Place) -> DocumentShards:
        """Bring the pair onto the disk and return the shards with it; the next begins at `after`."""
        number = len(self._shards.pairs)
        pair = ShardPair(self._write("train", number), self._write("validation", number), after)
        self._pair = _Pair()
        return self._shards.replace(about=self._about(after), pairs=(*self._shards.pairs, pair))

    def _write(self, side: Side, number: int) -> ShardRecord:
        path, ids, tokenizer = shard_path(self._shards.folder, side, number), self._pair.ids[side], self._shards.about["tokenizer"]
        sidecar = {
            "corpus": self._source.name,
            "n_documents": len(ids),
            "tokenizer": tokenizer["kind"],
            "tokenizer_sha256": tokenizer["sha256"],
        }
        try:
            write_shard_in_pieces(path, ids, d_vocab=tokenizer["d_vocab"], manifest=sidecar)
            return ShardRecord(self._pair.n_tokens[side], len(ids), file_sha256(path))
        except OSError as error:
            name_file(error, path)
            if number:
                error.add_note(f"the pairs of shards before {path.name} are whole, to be gone on with")
            raise

    def _about(self, after: Place) -> dict[str, Any]:
        """Return what shards follow from, with what fixes the content of every file that was read of."""
        about = self._shards.about
        files = list(about["source"]["files"])
        for number in range(min(len(files), after.file + (after.row > 0))):
            if len(files[number]) == 2:
                files[number] = files[number] | self._source.files[number].identity()
        return {**about, "source": {**about["source"], "files": files}}

    def _encode(self, documents: Sequence[Document]) -> list[_Encoded]:
        begin = np.array([self._tokenizer.eot], dtype=np.uint32)
        fraction, found = self._shards.about["validation_fraction"], []
        for document in documents:
            try:
                ids = np.concatenate([begin, self._tokenizer.encode_array(document.text)])
            except ValueError as error:
                file, row = self._source.files[document.place.file], document.place.row
                raise ValueError(f"row {row} of {file} cannot be encoded: {error}") from None
            found.append(_Encoded(side_of(document.text, fraction), ids, document.place))
        return found


def _encoded(
    documents: Iterator[Document], encode: Callable[[Sequence[Document]], list[_Encoded]], n_workers: int
) -> Generator[_Encoded]:
    """Yield documents encoded, in their order, by several threads that are never more than a few lots ahead."""
    waiting: deque[Future[list[_Encoded]]] = deque()
    pool = ThreadPoolExecutor(n_workers, "encode")
    try:
        for lot in _lots(documents):
            waiting.append(pool.submit(encode, lot))
            if len(waiting) > 2 * n_workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _lots(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Yield documents together that have enough characters to be worth a thread's while."""
    lot, n_characters = list[Document](), 0
    for document in documents:
        lot.append(document)
        n_characters += len(document.text)
        if n_characters >= _AT_ONCE:
            yield lot
            lot, n_characters = [], 0
    if lot:
        yield lot


def _is_ours(path: Path) -> bool:
    return path.name in ("manifest.json", "tokenizer.json") or _SHARD.fullmatch(path.name) is not None


def _say_nothing(n_done: int, n_total: int | None) -> None:
    """Report to nobody."""
