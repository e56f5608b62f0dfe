from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from cutaway.cli.command import Command, excludes, options_of
from cutaway.cli.docstrings import field_texts
from cutaway.cli.errors import UsageError
from cutaway.cli.help import print_help


@dataclass(frozen=True)
class Recipe:
    """A configuration with a field of each kind."""

    n_steps: int = 10
    """Steps to take."""
    rate: float | None = 0.1
    """AdamW's."""
    compile: bool = True
    kind: Literal["small", "large"] = "small"
    """Which size."""
    heat: Literal["off", "low", "medium", "high", "very-high"] = "off"
    """How hot."""
    secret: str = ""


def dish(arguments):
    return ("stew", Recipe(n_steps=99)) if "stew" in arguments else ("soup", Recipe())


@excludes("size", "seed", "rate", why="large dishes taste alike")
@options_of(Recipe, group="Recipe", defaults=dish, omit=["secret"], metavars={"rate": "SPEED"})
def cook(
    names: tuple[str, ...] = (),
    /,
    *,
    out: Path | None = None,
    seed: int = 0,
    spice: tuple[str, ...] = (),
    size: int = 1,
    json: bool = False,
    **changes,
) -> None:
    """Cook what is named.

    It takes a while,
    and smells good.

    Args:
        names: what to cook
        out FOLDER: where it goes,
            warm
        seed: what fixes the taste
        spice: what goes in
        size L M S: how large
        json: print JSON

    Examples:
        cutaway cook soup      hot
        cutaway cook --help
    """
    raise AssertionError


COMMAND = Command("cook", cook)
DEFAULTS = {"out": None, "seed": 0, "spice": (), "size": 1, "json": False}


@pytest.mark.parametrize(
    ("arguments", "positional", "keywords"),
    [
        ([], ((),), {}),
        (["soup", "bread", "--seed", "3"], (("soup", "bread"),), {"seed": 3}),
        (["--spice", "salt", "--json"], ((),), {"spice": ("salt",), "json": True}),
        (["--spice", "salt", "--spice", "oil"], ((),), {"spice": ("salt", "oil")}),
        (["--spice", "salt", "soup"], (("soup",),), {"spice": ("salt",)}),  # one value each, and the rest are arguments
        (["--out=here"], ((),), {"out": Path("here")}),
    ],
)
def test_arguments_become_what_the_signature_says(arguments, positional, keywords):
    assert COMMAND.parse(arguments) == (positional, DEFAULTS | keywords)


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        (["--n-steps", "10"], {"n_steps": 10}),  # given, although it is the default
        (["--n_steps=3", "--rate", "None"], {"n_steps": 3, "rate": None}),
        (["--no-compile"], {"compile": False}),
        (["--compile", "--kind", "large"], {"compile": True, "kind": "large"}),
    ],
)
def test_only_the_fields_given_arrive(arguments, changes):
    assert COMMAND.parse(arguments)[1] == DEFAULTS | changes


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--sed", "3"], "`cutaway cook` has no option --sed; did you mean --seed? see `cutaway cook --help`"),
        (["--secret", "x"], "`cutaway cook` has no option --secret; "),
        (["--seed", "x"], "--seed is 'x'; expected a whole number; "),
        (["--seed=3.5"], "--seed is '3.5'; expected a whole number; "),
        (["--seed"], "--seed lacks its value; expected a whole number; "),
        (["--seed", "--json"], "--seed lacks its value; expected a whole number; "),
        (["--out"], "--out lacks its value; expected a path; "),
        (["--spice"], "--spice lacks its value; expected a text; "),
        (["--kind", "medium"], "--kind is 'medium'; expected small or large; "),
        (["--kind", "None"], "--kind is 'None'; expected small or large; "),
        (["--n-steps", "None"], "--n-steps is 'None'; expected a whole number; "),
        (["--rate", "fast"], "--rate is 'fast'; expected a number or None; "),
        (["--json=yes"], "--json takes no value; "),
        (["--no-compile=1"], "--no-compile takes no value; "),
        (["soup", "--seed", "3", "bread"], "'bread' stands apart from the other arguments: put it beside them"),
    ],
)
def test_what_cannot_be_understood_is_said_in_a_sentence(arguments, sentence, capsys):
    with pytest.raises(UsageError) as caught:
        COMMAND.parse(arguments)
    said = str(caught.value)
    assert sentence in said
    assert "\n" not in said
    assert not set("╭│╰─") & set(said)
    assert said.count("see `cutaway cook --help`") == 1
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("given", "refused"), [(["--seed", "1"], "--seed"), (["--rate", "0.1"], "--rate")])
def test_an_option_that_would_be_passed_over_is_refused(given, refused):
    with pytest.raises(UsageError, match=f"^--size and {refused} do not go together: large dishes taste alike$"):
        COMMAND.parse(["--size", "2", *given])
    assert COMMAND.parse(["--size", "1", *given])  # the default changes nothing
    assert COMMAND.parse(["--size", "2", "--seed", "0"])


def test_texts_under_fields_begin_small_but_for_names():
    assert field_texts(Recipe) == {
        "n_steps": "steps to take",
        "rate": "AdamW's",
        "kind": "which size",
        "heat": "how hot",
    }


def test_help_says_what_the_docstring_says(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    print_help(COMMAND)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "Usage  cutaway cook [NAME ...] [OPTIONS]"
    assert "Cook what is named." in lines
    assert "It takes a while, and smells good." in lines
    text = "\n".join(" ".join(line.split()) for line in lines)
    for expected in (
        "[NAME ...] what to cook",
        "--out FOLDER where it goes, warm",
        "--seed N what fixes the taste (default 0)",
        "--spice TEXT what goes in",
        "--json print JSON",
        "-h, --help show this",
        "Recipe, with the defaults of soup",
        "--n-steps N steps to take (default 10)",
        "--rate SPEED AdamW's (default 0.1)",
        "--[no-]compile default on",
        "--heat NAME off, low, medium, high or very-high; how hot (default off)",
        "--size L M S how large (default 1)",
        "--kind small|large which size (default small)",
        "Examples\ncutaway cook soup hot\ncutaway cook --help",
    ):
        assert expected in text
    assert "secret" not in text
    assert max(map(len, lines)) <= 80


def test_help_shows_the_defaults_of_the_preset_that_is_named(capsys):
    print_help(COMMAND, ["stew", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "Recipe, with the defaults of stew" in text
    assert "steps to take (default 99)" in text


def test_where_there_is_no_room_texts_stand_below_and_commands_stay_whole(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "27")
    print_help(COMMAND)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    at = lines.index("  --kind small|large")
    assert lines[at + 1] == "      which size (default"
    examples = lines.index("Examples")
    assert lines[examples + 1 : examples + 4] == ["  # hot", "  cutaway cook soup", "  cutaway cook --help"]
    assert max(map(len, lines)) <= 27
