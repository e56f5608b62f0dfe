"""The menu as somebody sees it who presses arrow keys: 80 columns, 24 lines."""

import re
import shutil
import time

import pytest

import cutaway as package
from cutaway import assets
from cutaway.cli.menu.questions import _wrapped
from run_directories import make_run
from scripted_terminal import CTRL_C, CTRL_D, DOWN, END, ENTER, ESCAPE, HOME, UP, ScriptedTerminal
from tiny_training import tiny_config, write_text

COLOUR = re.compile(rb"\x1b\[(?:\d+;)*(?:3[0-79]|4[0-79]|9[0-7]|10[0-7])(?:;\d+)*m")
MENU = "What do you want to do?"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTAWAY_CACHE", str(home / "cache"))
        config = tiny_config(write_text(home), out=str(home / "run"), n_layers=2, n_ctx=64, n_steps=3)
        return package.train(config, quiet=True)


@pytest.fixture
def terminal(tmp_path, monkeypatch):
    """Open a terminal with bare `cutaway` in a folder that has a run."""
    monkeypatch.delenv("CUTAWAY_RUNS")
    make_run(tmp_path / "runs/tiny")

    def start(**environment):
        return ScriptedTerminal(folder=tmp_path, environment=environment)

    return start


def test_a_run_is_inspected_and_the_menu_comes_back(terminal):
    with terminal() as screen:
        screen.wait_for("Quit")
        assert [line.split()[0] for line in screen.visible().splitlines() if line.startswith(("   ", " » "))][-1] == "Quit"
        screen.choose("Inspect")
        screen.wait_for("Which model?")
        assert re.search(r" runs/tiny +step 100 of 100, val loss 1.21, complete, just now\n", screen.visible())
        assert re.search(r" induction-2l +two layers of attention with induction heads\n", screen.visible())
        assert re.search(r"smollm2-135m +pretrained, [\d.]+ MB to fetch first\n", screen.visible())
        screen.choose("runs/tiny")
        screen.wait_for("Any key goes back to the menu.")
        seen = screen.everything()
        assert "$ cutaway inspect runs/tiny\n" in seen
        assert "W_pos" in seen
        assert "step-000100" in seen
        assert MENU not in seen, "what was asked is gone"
        screen.type(" ")
        screen.wait_for(MENU)
        assert " » Inspect " in screen.visible()
        screen.choose("Quit")
        assert screen.wait_for_end() == 0


def test_the_pointer_goes_round(terminal):
    with terminal() as screen:
        screen.wait_for("Quit")
        screen.type(UP)
        screen.wait_for(" » Quit")
        screen.type(DOWN)
        screen.wait_for(" » Demo")
        screen.type(UP)
        screen.wait_for(" » Quit")
        screen.type(ENTER)
        assert screen.wait_for_end() == 0


def test_home_end_escape_and_q_do_what_they_say(terminal):
    with terminal() as screen:
        screen.wait_for("Quit")
        screen.type(END)
        screen.wait_for(" » Quit")
        screen.type(HOME)
        screen.wait_for(" » Demo")
        for key in (ESCAPE, "q"):
            screen.choose("Interpret")
            screen.wait_for("What do you want to see? (arrow keys, Enter; Esc: back)")
            screen.type(HOME)
            screen.type(key)
            screen.wait_for(MENU)
            screen.wait_for(" » Interpret ")
        screen.type("x")
        screen.type(ESCAPE)
        assert screen.wait_for_end() == 0


def test_ctrl_c_goes_back_and_then_quits_with_130(terminal):
    with terminal() as screen:
        screen.choose("Train")
        screen.wait_for("Quick")
        screen.choose("Quick")
        screen.wait_for("Which text?")
        screen.type(CTRL_C)
        screen.wait_for(MENU)
        screen.wait_for(" » Train ")
        screen.type(CTRL_C)
        assert screen.wait_for_end() == 130
        assert "cutaway: interrupted" in screen.visible()


def test_a_question_that_is_left_empty_goes_back(terminal):
    with terminal() as screen:
        for key in (CTRL_D, ENTER, CTRL_C):
            screen.choose("Inspect")
            screen.wait_for("Which model?")
            screen.choose("another")
            screen.wait_for("Path or name")
            screen.type(key)
            screen.wait_for(MENU)


def test_what_is_typed_replaces_what_stands_there(terminal, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "runs/play")
    for keys, words in (("Once", "Once"), ("\x7fy", "Thy")):  # \x7f is Backspace
        with terminal() as screen:
            screen.choose("Generate")
            screen.wait_for("How?")
            screen.choose("one text")
            screen.wait_for("Prompt: The")
            screen.type(keys)
            screen.wait_for(f"Prompt: {words}")
            screen.type(ENTER)
            screen.wait_for("Which model?")
            screen.choose("runs/play")
            screen.wait_for(f"$ cutaway generate {words} --model runs/play\n")


def test_a_long_question_is_broken_between_words():
    question = _wrapped(f"{'corpus and more ' * 8}(a file):", "shakespeare")
    assert all(len(line) < 80 for line in question.splitlines())
    assert question.split() == [*["corpus", "and", "more"] * 8, "(a", "file):"]
    assert _wrapped(f"{'x' * 70}:", "shakespeare").endswith(":\n"), "the answer has a line of its own"


def test_every_line_fits(terminal):
    with terminal() as screen:
        for path in (["Train", "Medium"], ["Generate"], ["Evaluate"], ["Interpret", "Cause"], ["Bench"]):
            screen.wait_for(MENU)
            for name in path:
                screen.choose(name)
                screen.wait_for("Back")
                lines = screen.visible().splitlines()
                assert lines[-1].strip() in ("", "Back"), "it fits 24 lines"
                assert not [line for line in lines if "..." in line], "no line is cut"
            screen.type(CTRL_C)


@pytest.mark.parametrize("no_color", [False, True])
def test_colour_says_nothing_that_is_not_said_without(terminal, no_color):
    with terminal(**({"NO_COLOR": "1"} if no_color else {})) as screen:
        screen.choose("Download")
        screen.wait_for("everything, with its size")
        screen.choose("list")
        screen.wait_for("Any key")
        assert "$ cutaway download\n" in screen.everything()
        screen.type(" ")
        screen.wait_for(" » Download")
        assert bool(COLOUR.search(screen.written)) != no_color


def test_ctrl_c_in_a_verb_comes_back_to_the_menu(terminal, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "runs/play")
    with terminal() as screen:
        screen.choose("Generate")
        screen.wait_for("How?")
        screen.choose("prompts")
        screen.wait_for("Which model?")
        screen.choose("runs/play")
        screen.wait_for("prompt>")
        assert "$ cutaway generate --interactive --model runs/play\n" in screen.everything()
        time.sleep(0.5)  # the prompt stands there a moment before the input is read, and a signal in between waits for the next key
        screen.type(CTRL_C)
        screen.wait_for("Any key goes back to the menu.")
        assert "cutaway: interrupted" in screen.visible()
        screen.type(CTRL_C)
        screen.wait_for(MENU)


@pytest.mark.parametrize(("verb", "found"), [("heads", "previous token"), ("induction-heads", "Induction heads")])
def test_heads_are_found_without_reading_documentation(terminal, trained, tmp_path, verb, found):
    shutil.copytree(trained, tmp_path / "runs/play")
    with terminal() as screen:
        screen.choose("Interpret")
        screen.wait_for("Find heads")
        screen.choose("Find heads")
        screen.wait_for("Find heads: what?")
        screen.choose(verb)
        screen.wait_for("Which model?")
        screen.choose("runs/play")
        screen.wait_for("Any key goes back to the menu.")
        seen = screen.everything()
        assert f"$ cutaway interpret {verb} runs/play\n" in seen
        assert found.lower() in seen.lower()
        assert "cutaway: " not in seen
        screen.type(" ")
        screen.wait_for(MENU)
        assert " » Interpret " in screen.visible()


@pytest.mark.slow
def test_a_new_user_finds_the_heads_of_a_trained_model(tmp_path):
    """SmolLM2's previous-token and induction heads (prefix matching .89 for L18H6), by arrow keys alone."""
    try:
        assets.fetch("smollm2-135m")
    except assets.AssetError as error:
        pytest.skip(f"needs the model smollm2-135m, 93 MB: {error}")
    with ScriptedTerminal(folder=tmp_path) as screen:
        screen.choose("Interpret")
        screen.wait_for("Find heads")
        screen.choose("Find heads")
        screen.wait_for("Find heads: what?")
        screen.choose("heads")
        screen.wait_for("Which model?")
        screen.choose("smollm2-135m")
        screen.wait_for("Any key goes back to the menu.", within_s=600)
        foremost = {
            line.split("  ")[0]: line for line in screen.everything().splitlines() if re.search(r"  L\d+H\d+ 0\.\d\d", line)
        }
        assert "$ cutaway interpret heads smollm2-135m\n" in screen.everything()
    assert "L16H0 0.89, L11H1 0.85" in foremost["previous token"]
    assert "L18H6 0.89, L17H3 0.77, L17H4 0.74" in foremost["induction"]
