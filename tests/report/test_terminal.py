import doctest
import io
import json
import math

import pytest
from rich.console import Console
from rich.text import Text

from cutaway.report import (
    fields_table,
    format_bytes,
    format_count,
    format_duration,
    format_share,
    is_unicode,
    numbers,
    print_json,
    print_sentence,
    stdout_console,
    table,
)


def test_the_examples_are_true():
    assert doctest.testmod(numbers).failed == 0


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (format_bytes(0), "0 B"),
        (format_bytes(999), "999 B"),
        (format_bytes(999_960), "1.0 MB"),
        (format_bytes(5_051_228), "5.1 MB"),
        (format_bytes(83e9), "83.0 GB"),
        (format_count(0), "0"),
        (format_count(999_999), "1.0M"),
        (format_count(2_779_683_840), "2.8B"),
        (format_duration(0.9999), "1.0 s"),
        (format_duration(59.96), "1 min 00 s"),
        (format_duration(3_599.7), "1 h 00 min"),
        (format_share(1, 4), "25.0 %"),
    ],
)
def test_numbers_at_the_edges_of_their_units(written, expected):
    assert written == expected


def render(thing, *, width=80, encoding="utf-8"):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=file, width=width).print(thing)
    file.seek(0)
    return file.read().splitlines()


def small_table():
    grid = table("name", "size", right=["size"], footer={"name": "total", "size": "123"})
    grid.add_row("encoder", "1")
    grid.add_row("vocabulary", "122")
    return grid


def test_numbers_align_right_and_rules_part_header_and_footer():
    header, rule, first, second, end, footer = render(small_table())
    assert header.split() == ["name", "size"]
    assert set(rule) == set(end) == {"─"}
    assert first.rindex("1") == second.rindex("2") == footer.rindex("3")


def test_a_table_fits_where_there_is_no_room():
    grid = table("what", "it is")
    grid.add_row("a name that is long", "a text that is longer, and a_word_that_is_longer_than_the_column")
    lines = render(grid, width=30)
    assert max(map(len, lines)) <= 30
    assert "…" not in "".join(lines)


def say(sentence, *, is_terminal, width=40):
    file = io.StringIO()
    print_sentence(Console(file=file, width=width, force_terminal=is_terminal, color_system=None), Text(sentence))
    return file.getvalue().splitlines()


def test_a_sentence_breaks_between_words_and_never_within_a_command():
    command = "`cutaway train --resume runs/a-name-that-is-longer-than-the-line`"
    sentence = (
        f"cutaway: stopped and saved after step 12; go on by {command}, or not\n  and a line that is indented goes on too far\n"
    )
    assert say(sentence, is_terminal=True) == [
        "cutaway: stopped and saved after step",
        "12; go on by",
        f"{command},",
        "or not",
        "  and a line that is indented goes on",
        "  too far",
    ]
    assert say(sentence, is_terminal=False) == sentence.splitlines()
    assert say("short", is_terminal=True) == ["short"]


def test_ascii_terminals_get_ascii():
    assert all(line.isascii() for line in render(small_table(), encoding="ascii"))
    assert not is_unicode(Console(file=io.TextIOWrapper(io.BytesIO(), encoding="ascii")))
    assert is_unicode(Console(file=io.TextIOWrapper(io.BytesIO(), encoding="utf-8")))


def test_names_and_values_stand_in_two_columns():
    lines = render(fields_table({"a": 1, "longer": "x"}, title="Title"))
    assert [line.split() for line in lines] == [["Title"], ["a", "1"], ["longer", "x"]]
    assert lines[1].index("1") == lines[2].index("x")


def test_json_is_plain(capsys):
    print_json({"é": [1, None, True]})
    out = capsys.readouterr().out
    assert json.loads(out) == {"é": [1, None, True]}
    assert out.isascii()


def test_what_json_has_no_number_for_is_null(capsys):
    print_json({"a": math.inf, "b": [1.5, -math.inf, (math.nan, 2)], "c": {"d": math.nan, "e": True, "f": "NaN"}})
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found == {"a": None, "b": [1.5, None, [None, 2]], "c": {"d": None, "e": True, "f": "NaN"}}


def test_a_pipe_is_80_columns_wide(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    with capsys.disabled():
        pass
    assert stdout_console().width == 80
