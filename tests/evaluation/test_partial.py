"""An evaluation that was killed and taken up again gives, to the last bit, what one that never stopped gives."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cutaway.evaluation import multiple_choice, perplexity
from cutaway.evaluation.partial import language_model_hash, score_resumably
from cutaway.evaluation.scoring import Request
from cutaway.language_model import LanguageModel

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


def evaluate_until(lm: LanguageModel, rows: Path, partial: Path, n_done: int, **choices: Any) -> list[int]:
    """Evaluate until at least so many rows are done, and return how many were each time it was told."""
    told: list[int] = []

    def report(done: int, total: int) -> None:
        assert total == N_ROWS
        told.append(done)
        if done >= n_done:
            raise Killed

    with pytest.raises(Killed):
        multiple_choice(lm, rows, partial=partial, report=report, **choices)
    return told


def taken_up(lm: LanguageModel, rows: Path, partial: Path, **choices: Any) -> int:
    """Evaluate to the end, and return how many rows were there at the start."""
    told: list[int] = []
    multiple_choice(lm, rows, partial=partial, report=lambda done, _: told.append(done), **choices)
    return told[0]


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


def test_what_is_finished_leaves_no_file(lm: LanguageModel, rows: Path, tmp_path: Path) -> None:
    partial = tmp_path / "partial"
    evaluate_until(lm, rows, partial, 1)
    assert len(list(partial.iterdir())) == 1
    assert taken_up(lm, rows, partial) > 0
    assert list(partial.iterdir()) == []
    assert taken_up(lm, rows, partial) == 0  # computed anew


def test_another_model_or_protocol_or_other_rows_have_another_file(lm: LanguageModel, rows: Path, tmp_path: Path) -> None:
    partial = tmp_path / "partial"
    evaluate_until(lm, rows, partial, 1)
    (left,) = partial.iterdir()
    assert taken_up(lm, rows, partial, protocol="completion") == 0
    assert taken_up(lm, rows, partial, limit=N_ROWS - 1) == 0
    other = copy.deepcopy(lm.model)
    with torch.no_grad():
        other.blocks[1].attn.W_O.bias[3] += 1.0
    assert taken_up(LanguageModel(other, lm.tokenizer), rows, partial) == 0
    assert list(partial.iterdir()) == [left]
    assert taken_up(lm, rows, partial) > 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cutaway.evaluation.partial.SCORER", "scores 0"),
        ("cutaway.evaluation.partial.version", lambda package: f"{package} 0.0"),
        ("torch.__version__", "1.0"),
        ("torch.get_num_threads", lambda: 99),
    ],
)
def test_what_other_code_left_is_not_read(
    lm: LanguageModel, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    partial = tmp_path / "partial"
    with monkeypatch.context() as patch:
        patch.setattr(name, value)
        evaluate_until(lm, rows, partial, 1)
    (left,) = partial.iterdir()
    assert taken_up(lm, rows, partial) == 0
    assert list(partial.iterdir()) == [left]


def test_nonsense_in_the_file_counts_as_absent(lm: LanguageModel, tmp_path: Path) -> None:
    requests = [Request((1, 2), ((3,), (4, 5))), Request((6,), ((7,),))]
    expected = score_resumably(lm, requests)

    def stop_at(n_stop: int) -> Callable[[int, int], None]:
        def report(done: int, total: int) -> None:
            if done >= n_stop:
                raise Killed

        return report

    with pytest.raises(Killed):
        score_resumably(lm, requests, partial=tmp_path, report=stop_at(2))
    (file,) = tmp_path.iterdir()
    good = file.read_text().splitlines()
    assert len(good) == 2
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
    with pytest.raises(Killed):
        score_resumably(lm, requests, partial=tmp_path, report=stop_at(1))
    assert file.read_text().splitlines() == good[:1]
    assert score_resumably(lm, requests, partial=tmp_path) == expected


def test_perplexity_resumes_too(lm: LanguageModel, tmp_path: Path) -> None:
    text = "a text of some length, " * 100
    told: list[int] = []

    def report(done: int, total: int) -> None:
        told.append(done)
        if 0 < done < total and len(told) == 2:
            raise Killed

    with pytest.raises(Killed):
        perplexity(lm, text, window=16, partial=tmp_path, report=report)
    assert perplexity(lm, text, window=16, partial=tmp_path, report=report) == perplexity(lm, text, window=16)
    assert told[2] == told[1] > 0


def test_the_hash_is_of_all_that_counts(lm: LanguageModel, table_lm: Callable[..., LanguageModel]) -> None:
    known = language_model_hash(lm)
    assert language_model_hash(LanguageModel(lm.model, lm.tokenizer)) == known
    assert language_model_hash(LanguageModel(lm.model.bfloat16(), lm.tokenizer)) != known
    ab = table_lm({"a": 0.5, "b": 0.5})
    assert language_model_hash(ab) != language_model_hash(LanguageModel(ab.model, table_lm({"c": 0.5, "d": 0.5}).tokenizer))
