"""Prompts side by side: what is paired, what is skipped, what is refused."""

import pytest

from cutaway.interp.alignment import align
from cutaway.report.tokens import token_label
from cutaway.tokenizers import CharTokenizer

TOKENIZER = CharTokenizer("abcdefgh ")


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text)


def test_the_same_length_is_paired_position_by_position() -> None:
    found = align(TOKENIZER, ids("abcd"), ids("axcd".replace("x", "h")))
    assert found.pairs == ((0, 0), (1, 1), (2, 2), (3, 3))
    assert found.skipped == ((), ())
    assert found.sentence() == ""
    assert found.rows()[1] == ("1", "b", "~", "h", "1")


def test_other_lengths_are_paired_by_both_ends() -> None:
    found = align(TOKENIZER, ids("abcgh"), ids("abdefgh"))
    assert found.pairs == ((0, 0), (1, 1), (3, 5), (4, 6))
    assert found.skipped == ((2,), (2, 3, 4))
    assert (
        found.sentence()
        == "Positions without a partner are skipped: 1 of the clean prompt (c) and 3 of the corrupted prompt (d, e, f)."
    )
    assert found.rows() == [
        ("0", "a", "=", "a", "0"),
        ("1", "b", "=", "b", "1"),
        ("2", "c", "", "d", "2"),
        ("", "", "", "e", "3"),
        ("", "", "", "f", "4"),
        ("3", "g", "=", "g", "5"),
        ("4", "h", "=", "h", "6"),
    ]


@pytest.mark.parametrize(
    ("clean", "corrupted", "pairs"),
    [
        ("aaa", "aaaaa", [(0, 0), (1, 1), (2, 2)]),  # no position is taken twice
        ("abab", "ab", [(0, 0), (1, 1)]),
        ("cab", "ab", [(1, 0), (2, 1)]),
        ("ab", "aeb", [(0, 0), (1, 2)]),
    ],
)
def test_what_is_taken_once(clean: str, corrupted: str, pairs: list[tuple[int, int]]) -> None:
    assert list(align(TOKENIZER, ids(clean), ids(corrupted)).pairs) == pairs


def test_pairs_may_be_given() -> None:
    found = align(TOKENIZER, ids("abc"), ids("defgh"), pairs=[(0, 1), (2, 4)])
    assert found.pairs == ((0, 1), (2, 4))
    assert found.skipped == ((1,), (0, 2, 3))
    for wrong in ([(1, 1), (0, 2)], [(0, 5)], [(-1, 0)], [(0, 0), (0, 1)]):
        with pytest.raises(ValueError, match="both rising, below 3 and 5"):
            align(TOKENIZER, ids("abc"), ids("defgh"), pairs=wrong)
    with pytest.raises(ValueError, match="pairs are empty"):
        align(TOKENIZER, ids("abc"), ids("defgh"), pairs=[])


def test_nothing_in_common_shows_both_lists() -> None:
    with pytest.raises(ValueError, match="do not align anywhere") as refused:
        align(TOKENIZER, ids("ab d"), ids("efg"))
    assert str(refused.value).splitlines()[1:] == [
        "  pos clean   corrupted  at",
        "    0 a       e           0",
        "    1 b       f           1",
        f"    2 {token_label(' ')}       g           2",
        "    3 d",
    ]
    assert "they have 4 and 3 tokens, and neither the first nor the last is the same; let them begin or end" in str(refused.value)
    with pytest.raises(ValueError, match="none is the same at its position"):
        align(TOKENIZER, ids("abc"), ids("efg"))


def test_it_is_json() -> None:
    assert align(TOKENIZER, ids("ab"), ids("cb")).to_dict() == {
        "clean": ["a", "b"],
        "corrupted": ["c", "b"],
        "pairs": [[0, 0], [1, 1]],
    }
