"""What the menu offers: every verb, as command lines that the verbs take."""

import os
import sys
import types
from dataclasses import fields

import pytest

from cutaway import assets
from cutaway.cli.command import load_command
from cutaway.cli.interpret.circuit.given import GivenPairs
from cutaway.cli.interpret.options import analysis
from cutaway.cli.main import main
from cutaway.cli.menu import entries, open_menu
from cutaway.cli.menu.entries import MENU, Entry, spell
from cutaway.cli.menu.models import find_pretrained, find_runs
from cutaway.cli.menu.questions import GoBack
from cutaway.cli.verbs import NESTED, VERBS, package_of
from run_directories import make_run

LONG_AGO = 1_700_000_000


def make_old(folder):
    """Let a run have changed last long ago."""
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (LONG_AGO, LONG_AGO))
    return folder


@analysis(text="the king", layer=3)
def look(lm, *, text: str, layer: int, head: int | None = None):
    """Look.

    Args:
        text: what to look at
        layer: where to look
    """


@pytest.fixture
def verbs(monkeypatch):
    """The menu has one verb of interpret, which needs a text and a layer."""
    module = types.ModuleType("cutaway.cli.interpret.look")
    module.look = look
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(entries, "INTERPRET_VERBS", {"See": {"look": "it looks"}})


@pytest.fixture
def chosen(monkeypatch):
    """Answer the questions of the menu: places are given beforehand, 0 afterwards; texts are as offered, or `typed`."""

    class Answers:
        places: tuple[int, ...] = ()
        typed = "typed"

        def __init__(self):
            self.n_lines, self.shown = [], []

        def pick(self, question, groups, *, leave="Back", start=0):
            lines = [line for group in groups.values() for line in group]
            place = self.places[len(self.n_lines)] if len(self.n_lines) < len(self.places) else 0
            self.n_lines.append(len(lines))
            self.shown.append({line.name: line.about for line in lines})
            return place

        def ask_text(self, question, *, default="", is_path=False):
            return default or self.typed

    answers = Answers()
    monkeypatch.setattr(entries, "pick", lambda *args, **options: answers.pick(*args, **options))
    monkeypatch.setattr(entries, "ask_text", lambda *args, **options: answers.ask_text(*args, **options))
    return answers


def every_command(entry, answers):
    """Return the command lines of all ways through an entry."""
    commands, ways = [], [()]
    while ways:
        answers.places, answers.n_lines, answers.shown = ways.pop(), [], []
        commands.append(spell(entry.words))
        known = len(answers.places)
        ways += [
            (*answers.places, *(0 for _ in range(depth - known)), place)
            for depth in range(known, len(answers.n_lines))
            for place in range(1, answers.n_lines[depth])
        ]
    return commands


def test_the_menu_has_every_verb():
    assert {entry.words[0] for entry in MENU} == {verb for group in VERBS.values() for verb in group}
    assert len({entry.name for entry in MENU}) == len(MENU)


@pytest.mark.parametrize("entry", MENU, ids=lambda entry: entry.name)
def test_every_way_through_the_menu_is_a_command(entry, chosen, verbs, tmp_path):
    make_run(tmp_path / "runs/done")
    make_old(make_run(tmp_path / "runs/half", checkpoint_steps=(50,)))
    commands = every_command(entry, chosen)
    assert len({tuple(command) for command in commands}) == len(commands), "two ways to one command"
    for command in commands:
        n_names = 1
        while " ".join(command[:n_names]) in NESTED:
            n_names += 1
        load_command(*command[:n_names]).parse(command[n_names:])


def test_commands_are_those_that_somebody_would_write(chosen, verbs, tmp_path, monkeypatch):
    monkeypatch.setenv("CUTAWAY_RUNS", "runs")
    make_run(tmp_path / "runs/done")
    make_old(make_run(tmp_path / "runs/half", checkpoint_steps=(50,)))
    written = {" ".join(command) for entry in MENU for command in every_command(entry, chosen)}
    assert {
        "demo",
        "train",
        "train --n-steps 300",
        "train --n-steps 10000 --data stdlib",
        "train --watch previous_token,duplicate_token,induction,copying,icl --data stdlib",
        "train runs/half --resume",
        "generate The --model runs/done",
        "generate --chat --interactive --model smollm2-135m",
        "evaluate runs/done --checkpoints",
        "interpret look runs/done --text the king --layer 3",
        "interpret look smollm2-135m --text the king --layer 3",
        "inspect typed",
        "download shakespeare",
        "doctor",
    } <= written


def test_a_value_that_looks_like_an_option_stays_a_value(chosen, verbs, tmp_path, monkeypatch):
    make_run(tmp_path / "runs/done")
    monkeypatch.setattr(look, "demo", {"text": "--json", "layer": -1})
    command = spell(next(entry for entry in MENU if entry.name == "Interpret").words)
    assert command[-2:] == ["--text=--json", "--layer=-1"]
    assert load_command("interpret", "look").parse(command[2:])[1]["text"] == "--json"


def ways_through(verb, chosen, monkeypatch):
    """Return the command lines that the menu makes for one verb of interpret, all its questions answered as they stand."""
    monkeypatch.setattr(entries, "INTERPRET_VERBS", {"Some": {verb: "it does something"}})
    entry = next(entry for entry in MENU if entry.name == "Interpret")
    return [command[2:] for command in every_command(entry, chosen) if "runs/done" in command or command[1] == "circuit"]


def test_what_may_be_given_again_is_asked_for_once_for_each_text(chosen, tmp_path, monkeypatch):
    monkeypatch.setenv("CUTAWAY_RUNS", "runs")
    make_run(tmp_path / "runs/done")
    for verb in ("ablate", "importance"):
        ((_, *words),) = ways_through(verb, chosen, monkeypatch)
        example = load_command("interpret", verb).function.demo["text"]
        assert words == [word for text in example for word in ("--text", text)]


def test_one_of_several_options_is_chosen(chosen, tmp_path, monkeypatch):
    monkeypatch.setenv("CUTAWAY_RUNS", "runs")
    make_run(tmp_path / "runs/done")
    ways = ways_through("tuned-lens", chosen, monkeypatch)
    assert sorted(words for _, *words in ways) == [["--lens", "typed"], ["--train-on", "stdlib"]]
    for words in ways:
        assert load_command("interpret", "tuned-lens").parse(words)


@pytest.mark.parametrize("group", ["circuit", "sae"])
def test_verbs_of_a_verb_are_asked_for_whole(group, chosen, tmp_path, monkeypatch):
    """Each command line is read and lacks nothing: a text of circuits comes with another and with an answer."""
    monkeypatch.setenv("CUTAWAY_RUNS", "runs")
    make_run(tmp_path / "runs/done")
    (tmp_path / "found.json").write_text('{\n  "format": "cutaway circuit",\n')
    (tmp_path / "other.json").write_text("{}")
    ways, offered = (
        ways_through(group, chosen, monkeypatch),
        {name for verbs in package_of(f"interpret {group}").VERBS.values() for name in verbs},
    )
    assert {verb for verb, *_ in ways} == offered
    for verb, *words in ways:
        given = load_command("interpret", group, verb).parse(words)[1]
        if group == "circuit" and verb not in ("draw", "compare"):
            assert GivenPairs(**{each.name: given[each.name] for each in fields(GivenPairs)}).are_given is (verb == "find")
    if group == "circuit":
        assert ["find", "runs/done", "--text", "typed", "--corrupted", "typed", "--target", "typed"] in ways
        assert ["minimise", "demo"] in ways, "a circuit's file has prompts of its own, and names its model"
        assert ["run", "found.json"] in ways
        assert ["compare", "found.json", "typed"] in ways
        assert not [words for words in ways if "other.json" in words], "it is no circuit"
    else:
        assert ["compare", "shuffled", "runs/done", "--corpus", "stdlib"] in ways
        assert ["probe", "runs/done", "--data", "number"] in ways
        assert ["effects", "runs/done", "--text", "When Mary and John went to the store, John gave a drink to"] in ways
        assert ["keep", "runs/done", "--ioi", "8"] in ways


@pytest.mark.parametrize(
    ("verb", "ways"),
    [
        ("function-vector", [["--pairs", "capital"]]),
        ("probe", [["--data", "number"]]),
        ("graph", [["--text", "The capital of France is"], ["--saved", "typed"]]),
        ("store", [["--data", "stdlib", "--names", "blocks.9.resid_post"]]),
    ],
)
def test_what_a_verb_cannot_do_without_is_asked_for(verb, ways, chosen, tmp_path, monkeypatch):
    monkeypatch.setenv("CUTAWAY_RUNS", "runs")
    make_run(tmp_path / "runs/done")
    assert [rest for _, *rest in ways_through(verb, chosen, monkeypatch)] == ways
    for words in ways:
        load_command("interpret", verb).parse(words)


def test_a_run_is_offered_its_own_text(chosen, tmp_path, monkeypatch):
    monkeypatch.setenv("CUTAWAY_RUNS", "runs")
    manifest = make_run(tmp_path / "runs/done") / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"source": "stdlib"', '"source": "plays.txt"'))
    ways = ways_through("sae", chosen, monkeypatch)
    assert ["evaluate", "runs/done", "--corpus", "plays.txt"] in ways
    assert ["--train-on", "plays.txt"] in [words for _, *words in ways_through("tuned-lens", chosen, monkeypatch)]
    manifest.unlink()
    assert ["--train-on", "stdlib"] in [words for _, *words in ways_through("tuned-lens", chosen, monkeypatch)], "it does not say"


def test_what_runs_have_come_to_is_said(tmp_path):
    make_old(make_run(tmp_path / "runs/half", checkpoint_steps=(50,), n_steps=60))
    make_run(tmp_path / "runs/going", checkpoint_steps=(50,), n_steps=60)
    make_run(tmp_path / "runs/none", checkpoint_steps=())
    make_run(tmp_path / "runs/done")
    (tmp_path / "runs/none/metrics.jsonl").write_text("")
    found = {model.source.rpartition("/")[2]: model for model in find_runs()}
    assert list(found)[-1] == "none", "what cannot be chosen comes last"
    assert list(found)[-2] == "half", "and the newest first"
    assert found["none"].obstacle == "no checkpoint yet"
    assert found["done"].state == "step 100 of 100, val loss 1.21, complete, just now"
    assert found["going"].state == "step 50 of 100, val loss 1.67, training or interrupted, just now"
    assert found["half"].state.startswith("step 50 of 100, val loss 1.67, interrupted, ")
    assert found["half"].state.endswith(" days ago")
    assert [name for name, model in found.items() if model.is_unfinished] == ["half"]


def test_a_recipe_that_says_little_is_no_obstacle(tmp_path):
    run = make_run(tmp_path / "runs/old", checkpoint_steps=(7,))
    config = (run / "config.json").read_text().replace('"n_steps": 100, ', "")
    (run / "config.json").write_text(config)
    (run / "metrics.jsonl").write_text("")
    assert [model.state for model in find_runs()] == ["step 7, training or interrupted, just now"]


def test_the_pretrained_model_is_offered_before_it_is_here(monkeypatch):
    assert [(model.source, model.state) for model in find_pretrained()] == [
        ("smollm2-135m", f"pretrained, {assets.CATALOGUE['smollm2-135m'].n_bytes / 1e6:.1f} MB to fetch first")
    ]
    monkeypatch.setattr(
        "cutaway.assets.retrieval._held", lambda shelf: {} if shelf.asset.name in ("gpt2", "smollm2-135m") else None
    )
    assert [(model.source, model.state) for model in find_pretrained()] == [
        ("smollm2-135m", "pretrained, here"),
        ("gpt2", "pretrained, here"),
    ]


def test_a_run_that_cannot_be_read_does_not_end_the_menu(chosen, capsys, monkeypatch):
    def fail():
        raise ValueError("this run is damaged")

    ways = iter([0, 1])

    def choose(*_, **__):
        if (place := next(ways, None)) is None:
            raise GoBack
        return place, Entry("it", "", ("inspect", fail) if place == 0 else ("inspect",))

    monkeypatch.setattr("cutaway.cli.menu.loop.choose", choose)
    monkeypatch.setattr("cutaway.cli.menu.loop.wait_for_key", lambda said: None)
    ran = []
    open_menu(run=lambda arguments: ran.append(list(arguments)) or 0)
    out, err = capsys.readouterr()
    assert err == "cutaway: this run is damaged\n"
    assert out == "$ cutaway inspect\n\n"
    assert ran == [["inspect"]]


def test_where_nothing_can_be_asked_help_is_printed(cutaway, monkeypatch):
    shown = cutaway("--help")
    assert cutaway() == shown
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    assert cutaway() == shown
    assert main([]) == 0
