import io
import math
import re

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from cutaway.report import attention_map, grid
from cutaway.report.colours import DIVERGING, SEQUENTIAL, colour_at, readable_on

LABELS = ["When", " Mary", " and", "\n", "日本語", " electrification"]


def show(thing, *, width=80, encoding="utf-8", **settings):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    Console(file=file, width=width, **settings).print(thing)
    file.seek(0)
    return file.read().splitlines()


def numbers_of(line):
    return [float(number) for number in re.findall(r"(?<!\S)-?\d+\.\d+(?!\S)", line)]


def in_colour(thing):
    """Return the cells of a console with colours: text, foreground and background."""
    console = Console(width=80, force_terminal=True, color_system="truecolor", no_color=False, _environ={})
    return [
        (segment.text, segment.style.color.get_truecolor(), tuple(segment.style.bgcolor.get_truecolor()))
        for segment in console.render(thing)
        if segment.style and segment.style.bgcolor
    ]


def test_every_number_stands_in_its_row():
    values = np.random.default_rng(0).normal(size=(3, 4))
    lines = show(grid(values, rows=["a", "b", "c"], columns=list("wxyz"), digits=3, corner="row"))
    assert lines[0].split() == ["row", *"wxyz"]
    assert [line.split()[0] for line in lines[1:]] == ["a", "b", "c"]
    assert [numbers_of(line) for line in lines[1:]] == [[round(value, 3) for value in row] for row in values.tolist()]


@pytest.mark.parametrize("width", [24, 40, 80])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_wide_matrices_go_on_in_blocks_that_fit(width, encoding):
    values = np.arange(120.0).reshape(3, 40)
    thing = grid(values, rows=["a", "b", "c"], columns=(LABELS * 7)[:40], signed=True)
    lines = show(thing, width=width, encoding=encoding)
    assert max(map(cell_len, lines)) <= width
    assert encoding == "utf-8" or all(line.isascii() for line in lines)
    for row, label in enumerate("abc"):
        assert [number for line in lines if line.startswith(f"{label} ") for number in numbers_of(line)] == values[row].tolist()


def test_colours_are_those_of_the_values():
    values = [[-2.0, 0.0, 1.0]]
    cells = in_colour(grid(values, rows=["a"], columns=list("xyz"), signed=True))
    assert [background for _, _, background in cells] == [colour_at(value, (-2, 2), DIVERGING) for value in values[0]]
    cells = in_colour(grid([[0.0, 1.0, 4.0]], rows=["a"], columns=list("xyz")))
    assert [background for _, _, background in cells] == [colour_at(value, (0, 4), SEQUENTIAL) for value in (0, 1, 4)]
    assert all(front.hex == readable_on(background) for _, front, background in cells)
    cells = in_colour(grid([[0.5]], rows=["a"], columns=["x"], limit=1.0))
    assert cells[0][2] == colour_at(0.5, (0, 1), SEQUENTIAL)


def test_consoles_without_colour_show_the_same_numbers():
    thing = grid([[-2.0, 0.5]], rows=["a"], columns=["x", "y"], signed=True)
    plain = show(thing)
    without = show(thing, force_terminal=True, color_system="truecolor", no_color=True)
    assert not any("38;" in line or "48;" in line for line in without)
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in without] == plain


def test_words_stand_before_their_numbers():
    texts = [[" Paris", "\n"], ["electrification", "日本"]]
    lines = show(grid([[0.5, 0.25], [0.1, 1.0]], rows=["1", "2"], columns=["a", "b"], texts=texts))
    assert lines[1].split() == ["1", "·Paris", "0.50", "⏎", "0.25"]
    assert lines[2].split() == ["2", "electrifi…", "0.10", "日本", "1.00"]
    assert cell_len(lines[1]) == cell_len(lines[2])


def test_what_is_not_a_number_stays_empty():
    thing = grid([[math.nan, 1.0], [-0.001, math.inf]], rows=["a", "b"], columns=["x", "y"])
    lines = show(thing)
    assert lines[1].split() == ["a", "1.00"]
    assert lines[2].split() == ["b", "0.00", "inf"]
    assert len(in_colour(thing)) == 3


def test_long_labels_are_folded_and_cut():
    lines = show(grid([[1.0]], rows=["a row whose name goes on and on and on"], columns=["a column whose name goes on and on"]))
    assert len(lines) == 4
    assert "…" in lines[2]
    assert "…" in lines[3]


def test_a_map_shows_what_each_query_reads():
    pattern = np.tril(np.arange(1.0, 17.0).reshape(4, 4)) / 16
    lines = show(attention_map(pattern, tokens=["a", " b", "\n", "d"]))
    assert lines[0].split() == ["0", "1", "2", "3"]
    assert lines[1].split() == ["query", "\\", "key", "a", "·b", "⏎", "d"]
    for query, line in enumerate(lines[2:]):
        assert numbers_of(line) == [round(value, 2) for value in pattern[query, : query + 1].tolist()]
    both_ways = show(attention_map(np.full((3, 3), 1 / 3), tokens=["a", "b", "c"]))
    assert [len(numbers_of(line)) for line in both_ways[2:]] == [3, 3, 3]


def test_a_block_leaves_out_queries_before_its_keys():
    pattern = np.tril(np.ones((40, 40))) / 40
    blocks = "\n".join(show(attention_map(pattern, tokens=["x"] * 40))).split("\n\n")
    assert len(blocks) > 2
    assert [len(block.splitlines()) for block in blocks] == sorted((len(block.splitlines()) for block in blocks), reverse=True)
    assert sum(len(numbers_of(line)) for block in blocks for line in block.splitlines()) == 40 * 41 / 2


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"shape \(1, 2\): expected \(1, 1\)"):
        grid([[1.0, 2.0]], rows=["a"], columns=["x"])
    with pytest.raises(ValueError, match="expected 1 of 2"):
        grid([[1.0, 2.0]], rows=["a"], columns=["x", "y"], texts=[["only one"]])
    with pytest.raises(ValueError, match=r"expected \(2, 2\)"):
        attention_map(np.ones((1, 2)), tokens=["a", "b"])
