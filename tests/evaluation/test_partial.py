"""An evaluation that was killed and taken up again gives, to the last bit, what one that never stopped gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cutaway.evaluation import Evaluation, multiple_choice, perplexity
from cutaway.evaluation.partial import language_model_hash, score_resumably
from cutaway.evaluation.scoring import Request
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer

N_ROWS = 120


@pytest.fixture
def lm(byte_lm: LanguageModel) -> LanguageModel:
    byte_lm.model.float()  # where the order of a sum shows
    return byte_lm


@pytest.fixture
def rows(write_rows: Callable[..., Path], made_up_rows: Callable[..., list[dict[str, Any]]]) -> Path:
    return write_rows(made_up_rows(N_ROWS))


class Killed(Exception):
    """Stands for a process that ends."""


def evaluate_until(lm: LanguageModel, rows: Path, partial: Path, n_done: int) -> list[int]:
    """Evaluate until at least so many rows are done, and return how many were each time it was told."""
    told: list[int] = []

    def report(done: int, total: int) -> None:
        assert total == N_ROWS
        told.append(done)
        if done >= n_done:
            raise Killed

    with pytest.raises(Killed):
        multiple_choice(lm, rows, partial=partial, report=report)
    return told


def test_killed_and_resumed(lm: LanguageModel, rows: Path, tmp_path: Path) -> None:
    expected = multiple_choice(lm, rows)
    told = evaluate_until(lm, rows, tmp_path / "partial", 1)
    assert told[0] == 0
    assert 0 < told[-1] < N_ROWS
    (file,) = (tmp_path / "partial").iterdir()
    file.write_bytes(file.read_bytes()[:-20])  # in the middle of a line
    resumed: list[int] = []
    found = multiple_choice(lm, rows, partial=tmp_path / "partial", report=lambda done, total: resumed.append(done))
    assert resumed[0] == told[-1] - 1
    assert found == expected


def test_what_is_finished_is_not_computed_again(
    lm: LanguageModel, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = multiple_choice(lm, rows, partial=tmp_path / "partial")
    with monkeypatch.context() as patch:
        patch.setattr(Transformer, "run_blocks", None)
        assert multiple_choice(lm, rows, partial=tmp_path / "partial") == expected
        with pytest.raises(TypeError):
            multiple_choice(lm, rows, partial=tmp_path / "partial", limit=5)  # other rows together: another file


def test_another_model_or_protocol_has_another_file(lm: LanguageModel, rows: Path, tmp_path: Path) -> None:
    def evaluate(**choices: Any) -> Evaluation:
        return multiple_choice(lm, rows, partial=tmp_path / "partial", limit=4, **choices)

    first = evaluate()
    evaluate(protocol="completion")
    with torch.no_grad():
        lm.model.blocks[1].attn.W_O.bias[3] += 1.0
    assert evaluate().rows[0]["log_probs"] != first.rows[0]["log_probs"]
    assert len(list((tmp_path / "partial").iterdir())) == 3


def test_nonsense_in_the_file_counts_as_absent(lm: LanguageModel, tmp_path: Path) -> None:
    requests = [Request((1, 2), ((3,), (4, 5))), Request((6,), ((7,),))]
    expected = score_resumably(lm, requests, partial=tmp_path)
    (file,) = tmp_path.iterdir()
    good = file.read_text().splitlines()
    nonsense = [
        "",
        "{}",
        "[]",
        "3",
        '{"request": 9}',
        '{"request": 1, "continuations": [[[1, 2], true]], "is_truncated": false}',
        "\x00",
    ]
    file.write_text("\n".join([*nonsense, good[0]]) + "\n")
    assert score_resumably(lm, requests, partial=tmp_path) == expected
    assert set(file.read_text().splitlines()) == set(good)


def test_perplexity_resumes_too(lm: LanguageModel, tmp_path: Path) -> None:
    text = "a text of some length, " * 20
    expected = perplexity(lm, text, window=16, partial=tmp_path)
    assert perplexity(lm, text, window=16, partial=tmp_path) == expected == perplexity(lm, text, window=16)


def test_the_hash_is_of_all_that_counts(lm: LanguageModel, table_lm: Callable[..., LanguageModel]) -> None:
    known = language_model_hash(lm)
    assert language_model_hash(LanguageModel(lm.model, lm.tokenizer)) == known
    assert language_model_hash(LanguageModel(lm.model.bfloat16(), lm.tokenizer)) != known
    ab = table_lm({"a": 0.5, "b": 0.5})
    assert language_model_hash(ab) != language_model_hash(LanguageModel(ab.model, table_lm({"c": 0.5, "d": 0.5}).tokenizer))
