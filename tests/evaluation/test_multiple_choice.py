"""Multiple choice: protocols by hand-made items whose log-probabilities are known, chance, ties and bad rows."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cutaway.config import ModelConfig
from cutaway.evaluation import PROTOCOLS, multiple_choice
from cutaway.evaluation.multiple_choice import likeliest
from cutaway.evaluation.rows import Row
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.runtime import seeded_generator
from cutaway.tokenizers import BPETokenizer

MakeTable = Callable[..., LanguageModel]
WriteRows = Callable[..., Path]

ROW = {"activity_label": "a", "ctx_a": "b", "ctx_b": "a", "ctx": "b a", "label": 0}
PROBABILITIES = {" ": 0.02, "a": 0.5, "b": 0.1, "é": 0.25, ":": 0.05, "A": 0.04, "B": 0.04}


def test_where_the_metrics_disagree(table_lm: MakeTable, write_rows: WriteRows) -> None:
    """By hand: sums prefer one b to four a, means the other way; a character of two bytes counts once."""
    lm = table_lm(PROBABILITIES)
    path = write_rows(
        [
            {**ROW, "endings": ["b", "aaaa"], "label": 0},
            {**ROW, "endings": ["b", "aaaa"], "label": 1},
            {**ROW, "endings": ["bb", "éé"], "label": 1},
            {**ROW, "endings": ["a", "aaé"], "label": 1},
        ]
    )
    space, a, b, e = (math.log(PROBABILITIES[character]) for character in " abé")
    sums = [[space + b, space + 4 * a]] * 2 + [[space + 2 * b, space + 2 * e], [space + a, space + 2 * a + e]]

    result = multiple_choice(lm, path)
    for row, expected in zip(result.rows, sums, strict=True):
        assert row["log_probs"] == pytest.approx(expected, rel=0, abs=1e-13)
    assert [row["lengths"] for row in result.rows] == [[1, 4], [1, 4], [2, 2], [1, 3]]
    assert [row["acc"] for row in result.rows] == [0, 0, 1, 0]
    assert [row["acc_norm"] for row in result.rows] == [1, 1, 1, 1]
    assert {name: metric.value for name, metric in result.metrics.items()} == {"acc": 0.5, "acc_norm": 0.75}
    assert result.metrics["acc"].standard_error == pytest.approx(math.sqrt(0.5 * 0.5 / 3))

    tokens = multiple_choice(lm, path, protocol="completion")
    assert [row["lengths"] for row in tokens.rows] == [[2, 5], [2, 5], [3, 3], [2, 4]]  # with the blank's
    assert tokens.rows[3]["log_probs"] == pytest.approx(sums[3], rel=0, abs=1e-13)


def test_characters_are_counted_and_not_bytes(table_lm: MakeTable, write_rows: WriteRows) -> None:
    lm = table_lm(PROBABILITIES)
    space, a, e = (math.log(PROBABILITIES[character]) for character in " aé")
    endings = ["aé", "aaa"]
    sums = [space + a + e, space + 3 * a]
    in_bytes = [sums[0] / 3, sums[1] / 3]
    assert in_bytes[0] > in_bytes[1] or sums[0] / 2 < sums[1] / 3  # the two rules differ here
    row = multiple_choice(lm, write_rows([{**ROW, "endings": endings}])).rows[0]
    assert row["acc_norm"] == likeliest([sums[0] / 2, sums[1] / 3]) == 1


def test_of_equal_endings_the_first_counts(table_lm: MakeTable, write_rows: WriteRows) -> None:
    lm = table_lm(dict.fromkeys(PROBABILITIES, 1 / 7))
    rows = [
        {**ROW, "endings": ["ab", "ba", "éé"]},
        {**ROW, "endings": ["aaa", "ab", "ba"], "label": 1},
    ]
    result = multiple_choice(lm, write_rows(rows))
    assert [(row["acc"], row["acc_norm"]) for row in result.rows] == [
        (0, 0),
        (1, 0),
    ]  # the longest has the best mean: the blank's share
    assert [row["acc_norm"] for row in multiple_choice(lm, write_rows(rows[:1]), protocol="completion").rows] == [0]


def test_likeliest() -> None:
    assert likeliest([-2.0, -1.0, -1.0]) == 1
    assert likeliest([-math.inf, -math.inf]) == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_model_that_knows_nothing_is_right_by_chance(
    write_rows: WriteRows, made_up_rows: Callable[..., list[dict[str, Any]]], protocol: str
) -> None:
    tokenizer = BPETokenizer()
    config = ModelConfig(d_vocab=tokenizer.d_vocab, n_ctx=128, n_layers=1, n_heads=2, d_model=16)
    lm = LanguageModel(Transformer(config, generator=seeded_generator(0)).eval(), tokenizer)
    result = multiple_choice(lm, write_rows(made_up_rows(400)), protocol=protocol)
    for metric in result.metrics.values():
        assert metric.standard_error == pytest.approx(math.sqrt(0.25 * 0.75 / 400), rel=0.1)
        assert abs(metric.value - 0.25) < 3 * metric.standard_error


def test_rows_are_prepared_as_the_harness_does() -> None:
    values = {
        "activity_label": "Knots",
        "ctx_a": "[header] How to tie [title] Take a  rope. [step] It",
        "ctx_b": "IS long.",
        "endings": [" pull [substeps] it. ", "[title]", "Let  go   now"],
        "label": "2",
    }
    item = PROTOCOLS["lm-eval"].item(Row("rows", 1, values))
    assert item.context == "Knots: How to tie. Take a rope. It Is long."
    assert item.endings == ("pull it.", "", "Let go  now")  # two blanks become one in a single pass
    assert item.label == 2


def test_the_raw_text_is_left_alone() -> None:
    values = {"ctx": "[header]  How to", "endings": ["[step] a", " b"], "label": 1}
    item = PROTOCOLS["completion"].item(Row("rows", 1, values))
    assert (item.context, item.endings, item.label) == ("[header]  How to", ("[step] a", " b"), 1)


def test_blanks_that_end_a_context_belong_to_the_ending(byte_lm: LanguageModel) -> None:
    item = PROTOCOLS["lm-eval"].item(Row("rows", 1, {**ROW, "ctx_a": "b [x]", "ctx_b": "", "endings": ["x", "y"]}))
    assert item.context == "a: b "
    request = PROTOCOLS["lm-eval"].request(byte_lm, item)
    assert byte_lm.text(request.context) == "a: b"
    assert [byte_lm.text(ending) for ending in request.continuations] == ["  x", "  y"]


def test_a_limit_and_what_cannot_be_read_after_it(table_lm: MakeTable, write_rows: WriteRows) -> None:
    lm = table_lm(PROBABILITIES)
    path = write_rows([{**ROW, "endings": ["a", "b"]}] * 3 + [{"no": "row"}])
    result = multiple_choice(lm, path, limit=3)
    assert result.settings["n_rows"] == len(result.rows) == 3
    assert json.loads(json.dumps(result.to_dict()))["metrics"]["acc"] == {"value": 1.0, "standard_error": 0.0, "is_share": True}
    with pytest.raises(ValueError, match="line 4: the field 'activity_label' is missing; the row has no"):
        multiple_choice(lm, path)


def test_what_does_not_fit_is_cut_and_counted(byte_lm: LanguageModel, write_rows: WriteRows) -> None:
    path = write_rows([{**ROW, "endings": ["a", "b"]}, {**ROW, "ctx_a": "long " * 20, "endings": ["a", "b"]}])
    assert multiple_choice(byte_lm, path).settings["n_truncated"] == 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"label": 2}, "label is 2; expected a whole number from 0 to 1"),
        ({"label": -1}, "label is -1; expected"),
        ({"label": True}, "label is True; expected"),
        ({"label": ""}, "label is ''; expected"),
        ({"label": None}, "label is None; expected"),
        ({"endings": "a"}, "endings is 'a'; expected a list of at least two strings"),
        ({"endings": ["a"]}, "endings is .*; expected a list of at least two strings"),
        ({"endings": ["a", 3]}, "endings is .*; expected a list of at least two strings"),
        ({"ctx_a": ["a"]}, "ctx_a is .*; expected a string"),
        ({"ctx_a": "ü"}, "the character.* are not among"),
    ],
)
def test_bad_rows(table_lm: MakeTable, write_rows: WriteRows, changes: dict[str, Any], sentence: str) -> None:
    good = {**ROW, "endings": ["a", "b"]}
    path = write_rows([good, good | changes])
    with pytest.raises(ValueError, match=f"rows.jsonl, line 2: {sentence}"):
        multiple_choice(table_lm(PROBABILITIES), path)


@pytest.mark.parametrize("field", ["activity_label", "ctx_a", "ctx_b", "endings", "label"])
def test_missing_fields(table_lm: MakeTable, write_rows: WriteRows, field: str) -> None:
    good = {**ROW, "endings": ["a", "b"]}
    path = write_rows([good, {name: value for name, value in good.items() if name != field}])
    with pytest.raises(ValueError, match=f"line 2: the field '{field}' is missing"):
        multiple_choice(table_lm(PROBABILITIES), path)


def test_unknown_protocol(table_lm: MakeTable) -> None:
    with pytest.raises(ValueError, match="there is no protocol 'mine'; there are lm-eval, completion"):
        multiple_choice(table_lm(PROBABILITIES), protocol="mine")


def test_torch_has_no_part_in_the_mean() -> None:
    """The sum of float32 numbers is taken in float64 without rounding on the way."""
    from cutaway.evaluation import Score

    log_probs = torch.full((10_000,), -0.1).tolist()
    assert Score(tuple(log_probs), False).log_prob == pytest.approx(10_000 * log_probs[0], rel=1e-15)
