"""What prose is held to is held."""

from pathlib import Path

import pytest

from prose import dead_links, unchecked_numbers, unknown_names


@pytest.mark.parametrize(
    ("prose", "code", "unchecked"),
    [
        ("It is 0.79.", "", ["0.79"]),
        ("It is 0.79.", "assert x == 0.79", []),
        ("It is 1,024 wide.", "n = 1_024", []),
        ("A share of 64 %.", "0.64", []),
        ("A share of 5 %.", "", ["5"]),
        ("Three of 12 heads, at layer 3.", "", []),
        ("One of 13 heads.", "", ["13"]),
        ("GPT-2 of 2019 (arXiv 2301.05217), `x = 0.5`, $0.5$, [x](y0.5.md).", "", []),
        ("```\n0.5\n```\nafter 0.25", "", ["0.25"]),
    ],
)
def test_numbers_in_prose_are_found(prose: str, code: str, unchecked: list[str]) -> None:
    assert unchecked_numbers(prose, code) == unchecked


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "a.md").touch()
    assert dead_links("[a](a.md) [b](b.md#x) ![c](c.svg) [d](#here) [e](https://example.com/x)", tmp_path) == ["b.md", "c.svg"]


def test_names_are_looked_up() -> None:
    assert unknown_names("`cutaway.model.attend(q)`, `cutaway.sweep`, `cutaway.model.atend`, `cutaway.Transformer.forwards`") == [
        "cutaway.model.atend",
        "cutaway.Transformer.forwards",
    ]
