"""Files of rows, the numbers made of them, and their table."""

import io
import math
import statistics
from pathlib import Path

import pytest
from rich.console import Console

from cutaway import assets
from cutaway.evaluation import DATASETS, Evaluation, Metric, results_table
from cutaway.evaluation.results import mean_metric, perplexity_metric, ratio_metric
from cutaway.evaluation.rows import read_rows


def test_lines_are_numbered_as_an_editor_does(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('\ufeff{"a": 1}\r\n\n  \n{"a": "ü\\u2028"}\n'.encode())
    rows = read_rows(path)
    assert [(row.line, row.values) for row in rows] == [(1, {"a": 1}), (4, {"a": "ü\u2028"})]
    assert len(read_rows(path, limit=1)) == 1


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "holds no rows"),
        (b"\n \n", "holds no rows"),
        (b"{}\n{'a': 1}\n", "line 2 is no JSON .*: expected an object on each line"),
        (b"{}\n{}\n[1]\n", r"line 3 holds \[1\]: expected a JSON object on each line"),
        (b'{"a": "\xff"}\n', "line 1 is not UTF-8 text"),
        (b"{}\n" + b"[" * 100_000 + b"\n", "line 2"),
    ],
)
def test_files_that_are_no_rows(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        read_rows(path)


def test_what_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no file 'absent.jsonl'; datasets with a name are hellaswag, lambada"):
        read_rows("absent.jsonl")
    with pytest.raises(ValueError, match=r"no file 'helaswag'; did you mean 'hellaswag'\? datasets"):
        read_rows("helaswag")
    with pytest.raises(ValueError, match="the limit is 0; expected at least 1 row"):
        read_rows(tmp_path, limit=0)

    def fail(name: str) -> None:
        raise assets.AssetError(f"{name}: could not be fetched")

    monkeypatch.setattr(assets, "fetch", fail)
    with pytest.raises(assets.AssetError, match=r"lambada: could not be fetched\n  a file of your own will do"):
        read_rows("lambada")
    path = tmp_path / "rows.jsonl"
    path.write_text("{}\n")
    monkeypatch.setattr(assets, "fetch", lambda name: {"rows.jsonl": path})
    assert [row.source for row in read_rows("hellaswag")] == ["hellaswag"]


def test_what_has_a_name_is_in_the_catalogue() -> None:
    assert set(DATASETS) <= assets.CATALOGUE.keys()
    assert all(file.sha256 for name in DATASETS for file in assets.CATALOGUE[name].files)


def test_means_and_their_errors() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    metric = mean_metric(values, is_share=True)
    assert metric.value == pytest.approx(0.6)
    assert metric.standard_error == pytest.approx(statistics.stdev(values) / math.sqrt(5))
    assert str(metric) == "60.00 ± 24.49 %"
    assert str(mean_metric([2.0])) == "2.000"
    assert str(Metric(9393321.6, 5.1e6)) == "9.393e+06 ± 5.1e+06"
    assert str(Metric(5.26, 0.003)) == "5.260 ± 0.0030"
    assert str(mean_metric([0.0, 0.0, 0.0], is_share=True)) == "0.00 %"  # three that agree do not say how far off they are


def test_a_ratio_of_equal_blocks_is_a_mean() -> None:
    totals = [3.0, 5.0, 4.0, 9.0]
    metric, mean = ratio_metric(totals, [2.0] * 4), mean_metric([total / 2 for total in totals])
    assert (metric.value, metric.standard_error) == pytest.approx((mean.value, mean.standard_error))
    assert ratio_metric([3.0], [2]) == Metric(1.5)


def test_perplexities() -> None:
    metric = perplexity_metric(Metric(2.0, 0.1))
    assert (metric.value, metric.standard_error) == pytest.approx((math.e**2, 0.1 * math.e**2))
    assert perplexity_metric(Metric(1000.0)).value == math.inf


def evaluation(acc: float, **settings: object) -> Evaluation:
    return Evaluation("hellaswag", {"protocol": "lm-eval", **settings}, {"acc": Metric(acc, 0.01, is_share=True)}, [])


def rendered(results: dict[str, Evaluation | None]) -> str:
    file = io.StringIO()
    Console(file=file, width=80).print(results_table(results))
    return file.getvalue()


def test_models_stand_side_by_side() -> None:
    text = rendered({"small": evaluation(0.3114, n_rows=10), "large": evaluation(0.5089, n_rows=10)})
    assert text.splitlines()[0] == "HellaSwag, by the lm-eval protocol, 10 rows"
    assert "31.14 ± 1.00 %" in text
    assert "50.89 ± 1.00 %" in text
    assert max(map(len, text.splitlines())) <= 80


def test_what_differs_is_said_of_each() -> None:
    text = rendered({"a": evaluation(0.3, n_rows=10), "b": evaluation(0.4, n_rows=20)})
    assert text.splitlines()[0] == "HellaSwag, by the lm-eval protocol"
    assert "a: 10 rows" in text
    assert "b: 20 rows" in text


def test_rows_that_were_cut_are_explained_and_what_has_no_words_is_given_as_it_is() -> None:
    said = str(evaluation(0.3, n_truncated=2, source="rows.jsonl", n_rows=10, n_shots=5)).splitlines()[0]
    assert said == (
        "HellaSwag, by the lm-eval protocol, on rows.jsonl, 10 rows, 2 of them cut on the left to fit the context, n shots 5"
    )
    assert "cut" not in str(evaluation(0.3, n_truncated=0))


def test_what_could_not_be_read_has_a_line() -> None:
    assert "b          unreadable" in rendered({"a": evaluation(0.3), "b": None})


def test_one_task_a_table() -> None:
    with pytest.raises(ValueError, match="the results are of hellaswag and lambada; a table shows one task"):
        results_table({"a": evaluation(0.3), "b": Evaluation("lambada", {}, {}, [])})
