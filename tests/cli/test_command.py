from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from cutaway.cli.command import Command, options_of
from cutaway.cli.errors import UsageError
from cutaway.cli.help import print_help


@dataclass(frozen=True)
class Recipe:
    """A configuration with a field of each kind."""

    n_steps: int = 10
    """Steps to take."""
    rate: float | None = 0.1
    compile: bool = True
    kind: Literal["small", "large"] = "small"
    """Which size."""
    heat: Literal["off", "low", "medium", "high", "very-high"] = "off"
    """How hot."""
    secret: str = ""


@options_of(Recipe, group="Recipe", omit=["secret"])
def cook(
    names: tuple[str, ...] = (),
    /,
    *,
    out: Path | None = None,
    seed: int = 0,
    resume: tuple[str, ...] | None = None,
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
        resume [DISH]: go on
        size L M S: how large
        json: print JSON

    Examples:
        cutaway cook soup   # hot
    """
    raise AssertionError


COMMAND = Command("cook", cook)


@pytest.mark.parametrize(
    ("arguments", "positional", "keywords"),
    [
        ([], ((),), {"out": None, "seed": 0, "resume": None, "size": 1, "json": False}),
        (
            ["soup", "bread", "--seed", "3"],
            (("soup", "bread"),),
            {"out": None, "seed": 3, "resume": None, "size": 1, "json": False},
        ),
        (["--resume", "--json"], ((),), {"out": None, "seed": 0, "resume": (), "size": 1, "json": True}),
        (["--out=here"], ((),), {"out": Path("here"), "seed": 0, "resume": None, "size": 1, "json": False}),
    ],
)
def test_arguments_become_what_the_signature_says(arguments, positional, keywords):
    assert COMMAND.parse(arguments) == (positional, keywords)


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
    keywords = COMMAND.parse(arguments)[1]
    assert {name: value for name, value in keywords.items() if name not in ("out", "seed", "resume", "size", "json")} == changes


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--sed", "3"], "`cutaway cook` has no option --sed; did you mean --seed? see `cutaway cook --help`"),
        (["--secret", "x"], "`cutaway cook` has no option --secret; "),
        (["--seed", "x"], "--seed: invalid literal for int"),
        (["--seed"], "'--seed'"),
        (["--kind", "medium"], "'medium' for argument '--kind'"),
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
        "--seed N what fixes the taste (0)",
        "--resume [DISH] go on",
        "--json print JSON",
        "-h, --help show this",
        "--n-steps N Steps to take",
        "--rate X",
        "--[no-]compile",
        "--heat NAME off, low, medium, high, very-high; How hot",
        "--size L M S how large (1)",
        "--kind small|large Which size",
        "Examples\ncutaway cook soup # hot",
    ):
        assert expected in text
    assert "secret" not in text
    assert max(map(len, lines)) <= 80
