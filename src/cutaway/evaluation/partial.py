"""Scores kept on the disk until an evaluation is complete, so that one that was stopped goes on with the same result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cutaway.evaluation.scoring import Request, Score, Scores, default_n_batch_tokens, score_batches
from cutaway.language_model import LanguageModel
from cutaway.ranks import sharing_ranks
from cutaway.runtime import atomic_write
from cutaway.tokenizers import tokenizer_hash
from cutaway.weights import model_sha256

__all__ = ["SCORER", "Progress", "score_resumably", "language_model_hash"]

SCORER = "scores 1"
"""The scoring's version: what another left half-done is begun anew. It goes up when scores come out different."""

Progress = Callable[[int, int], None]
"""Called with how many rows are done, and of how many."""


def score_resumably(
    lm: LanguageModel,
    requests: Sequence[Request],
    *,
    partial: Path | None = None,
    report: Progress | None = None,
    n_batch_tokens: int | None = None,
) -> list[Scores]:
    """Return the scores of every request in order, keeping them in the folder `partial` until the last is there.

    A file there belongs to one model, tokenizer, list of requests, version of the code, kind of device and number of threads; an
    evaluation of the same takes up what one that was stopped left, and its result is to the last bit that of one that never stopped
    on the same machine. A complete evaluation leaves no file: the next one computes everything anew. In `shared_work` each process
    scores and keeps a part of the batches, all get all scores, and any number of processes goes on with what others left.
    """
    ranks, found, path = sharing_ranks(), dict[int, Scores](), None
    n_batch_tokens = n_batch_tokens or default_n_batch_tokens(lm.model)
    key = _key(lm, requests, n_batch_tokens) if partial is not None or ranks.n > 1 else ""
    ranks.check_same("an evaluation", lambda: key)
    if partial is not None:
        found = ranks.from_first(lambda: _taken_up(partial, key, requests))
        path = partial / _file(key, ranks.rank.index)
        path.parent.mkdir(parents=True, exist_ok=True)
    report, n_before, own = report or _say_nothing, len(found), dict[int, Scores]()
    report(n_before, len(requests))
    for batch in score_batches(lm.model, requests, done=frozenset(found), n_batch_tokens=n_batch_tokens, part=ranks.part):
        own.update(batch)
        if path is not None:
            with path.open("a", encoding="utf-8") as file:
                file.write("".join(_line(number, scores) for number, scores in batch.items()))
        report(min(n_before + ranks.n * len(own), len(requests)), len(requests))  # the others are about as far
    for part in ranks.of_all(own):
        found |= part
    if path is not None:
        path.unlink(missing_ok=True)
    return [found[number] for number in range(len(requests))]


def _file(key: str, index: int) -> str:
    """Return the name of the file that a process keeps its scores in."""
    return f"{key}-{index}.jsonl" if index else f"{key}.jsonl"


def _taken_up(partial: Path, key: str, requests: Sequence[Request]) -> dict[int, Scores]:
    """Return what an evaluation that was stopped left; one file has all of it now, without a line half-written."""
    others = sorted(partial.glob(f"{key}-*.jsonl"))
    found = {number: scores for path in (partial / _file(key, 0), *others) for number, scores in _read(path, requests).items()}
    atomic_write(partial / _file(key, 0), "".join(_line(number, scores) for number, scores in found.items()))
    for path in others:
        path.unlink()
    return found


def language_model_hash(lm: LanguageModel) -> str:
    """Return the sha256 of what a model's scores follow from: its configuration, weights with their dtypes, and tokenizer."""
    return hashlib.sha256((model_sha256(lm.model) + tokenizer_hash(lm.tokenizer)).encode()).hexdigest()


def _key(lm: LanguageModel, requests: Sequence[Request], n_batch_tokens: int) -> str:
    """Return the sha256 of all that scores follow from, to the last bit: what is read, and what it is read with."""
    versions = {"scorer": SCORER, "cutaway": version("cutaway"), "torch": torch.__version__}
    machine = {"device": lm.model.embed.W_E.device.type, "n_threads": torch.get_num_threads(), "n_batch_tokens": n_batch_tokens}
    digest = hashlib.sha256(json.dumps({"model": language_model_hash(lm), **versions, **machine}).encode())
    for request in requests:
        digest.update(json.dumps([request.context, request.continuations]).encode())
    return digest.hexdigest()


def _line(number: int, scores: Scores) -> str:
    continuations = [[score.log_probs, score.is_greedy] for score in scores.continuations]
    return json.dumps({"request": number, "continuations": continuations, "is_truncated": scores.is_truncated}) + "\n"


def _read(path: Path, requests: Sequence[Request]) -> dict[int, Scores]:
    """Return what a file holds; a line cut off or changed counts as absent."""
    if not path.is_file():
        return {}
    found = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record: dict[str, Any] = json.loads(line)
            number = record["request"]
            continuations = tuple(
                Score(tuple(map(float, log_probs)), is_greedy) for log_probs, is_greedy in record["continuations"]
            )
            if [score.n_tokens for score in continuations] == [len(tokens) for tokens in requests[number].continuations]:
                found[number] = Scores(continuations, record["is_truncated"])
        except (ValueError, TypeError, KeyError, IndexError):
            continue
    return found


def _say_nothing(n_done: int, n_total: int) -> None:
    """Report to nobody."""
