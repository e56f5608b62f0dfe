import doctest
import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from cutaway.report import token_label, token_table, tokens
from cutaway.report.tokens import in_ascii, shortened


def test_the_examples_are_true():
    assert doctest.testmod(tokens).failed == 0


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (" ", "␣"),
        ("  ", "␣␣"),
        (" .", "·."),
        ("  x ", "··x·"),
        ("a b", "a b"),
        ("\n\n", "⏎⏎"),
        ("\r\n", "\\r⏎"),
        ("\t", "⇥"),
        ("\u200b", "\\u200b"),
        ("\u202e", "\\u202e"),  # would turn round the text after it
        ("\xa0", "\\xa0"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\u0301", "◌\u0301"),
        ("日本", "日本"),
        ("\N{REPLACEMENT CHARACTER}", "\N{REPLACEMENT CHARACTER}"),
        ("\ud800", "\\ud800"),
        ("<|im_start|>", "<|im_start|>"),
    ],
)
def test_what_cannot_be_seen_is_made_visible(text, label):
    assert token_label(text) == label


@given(st.text())
def test_a_label_is_one_line_of_visible_text_and_its_own_label(text):
    label = token_label(text)
    assert token_label(label) == label
    assert label.splitlines() == [label]
    assert label == label.strip()
    assert label.isprintable()
    assert in_ascii(label).isascii()


@given(st.text(st.characters(categories=["L", "P"]), max_size=12), st.integers(1, 12))
def test_a_shortened_label_fits(text, width):
    label = shortened(text, width)
    assert cell_len(label) <= width
    assert label == text or label.endswith("…")
    assert text.startswith(label.removesuffix("…").rstrip())


def show(thing, *, encoding="utf-8", width=80):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=file, width=width).print(thing)
    file.seek(0)
    return file.read().splitlines()


def test_a_token_table_has_a_line_a_token():
    thing = token_table([" the", "\n"], {"loss": [1.234, math.nan], "next": [" cat", "é"]}, digits=1, first=7)
    header, _, first, second = (line.split() for line in show(thing))
    assert header == ["pos", "token", "loss", "next"]
    assert first == ["7", "·the", "1.2", "·cat"]
    assert second == ["8", "⏎", "é"]
    assert show(thing, encoding="ascii")[-1].replace("|", " ").split() == ["8", "\\n", "\\xe9"]


def test_a_column_of_another_length_is_refused():
    with pytest.raises(ValueError, match="has 1 values for 2 tokens"):
        token_table(["a", "b"], {"loss": [1.0]})
