"""What all verbs of `cutaway interpret` share, shown on one that counts."""

import html
import json
import re
import shlex
import shutil
import sys
import types
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from matplotlib.figure import Figure
from rich.text import Text

import cutaway as package
from cutaway.cli.command import excludes
from cutaway.cli.interpret import VERBS
from cutaway.cli.interpret.options import analysis
from cutaway.interp.result import Result
from tiny_training import tiny_config, write_text


@dataclass(frozen=True)
class Count(Result):
    """How often a word comes in a text, as a model reads it."""

    title: ClassVar[str] = "Word count"
    source: ClassVar[str] = "Anyone 1900"
    n: int
    text: str
    share: float

    def summary(self) -> str:
        return f"{self.n} times in {self.text!r}."

    def to_dict(self) -> dict[str, Any]:
        return {"n": self.n, "text": self.text, "share": self.share}

    def figures(self):
        figure = Figure()
        figure.subplots().plot([0, 1])
        return [figure]

    def views(self):
        return [Text("[1] a view")]


@excludes("times", "slowly", why="one hurries")
@analysis(text="the king and the queen", word="the")
def word_count(lm, *, text: str, word: str, times: int = 1, slowly: bool = False, names: tuple[str, ...] = ()) -> Result:
    """Count a word.

    It is counted.

    Args:
        text: where to count
        word WORD: what to count
        times: how often the count is taken

    Examples:
        cutaway interpret word-count --demo

    In Python:
        text.count(word)
    """
    n_tokens = lm.tokens(text).shape[-1]
    return Count(times * text.count(word), text, n_tokens / 0.0 if text == "a" else n_tokens / 100)


@analysis(model="runs/play")
def read_weights(lm) -> Result:
    """Read weights alone."""
    return Count(lm.config.n_layers, "weights", 0.0)


@analysis(text="the king")
def say(lm, *, text: str) -> Result:
    """Say a text."""
    return Count(lm.tokens(text).shape[-1], text, 1.0)


@pytest.fixture(autouse=True)
def verbs(monkeypatch):
    """The verbs above stand among those of cutaway."""
    for verb in (word_count, read_weights, say):
        name = verb.__name__
        module = types.ModuleType(f"cutaway.cli.interpret.{name}")
        setattr(module, name, verb)
        monkeypatch.setattr(verb, "__module__", module.__name__)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(VERBS["See"], name.replace("_", "-"), "a verb of the tests")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTAWAY_CACHE", str(home / "cache"))
        return package.train(tiny_config(write_text(home), out=str(home / "run"), n_steps=3), quiet=True)


@pytest.fixture
def run(trained, tmp_path):
    """The latest run of this test's folder of runs."""
    return shutil.copytree(trained, tmp_path / "runs/play")


@pytest.fixture
def typed(monkeypatch):
    """Put somebody at a terminal, who types some lines and then ends the input."""

    def type_lines(*lines):
        waiting = iter(lines)

        def read(_):
            try:
                return next(waiting)
            except StopIteration:
                raise EOFError from None

        for stream in (sys.stdin, sys.stdout):
            monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", read)
        return waiting

    return type_lines


def test_help_has_the_options_of_the_verb_and_those_that_all_share(cutaway):
    code, out, err = cutaway("interpret", "word-count", "--help")
    assert (code, err) == (0, "")
    assert out.startswith("Usage  cutaway interpret word-count [MODEL] --text TEXT --word WORD [OPTIONS]\n\nCount a word.\n")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    for expected in (
        "--text TEXT where to count",
        "--times N how often the count is taken (default 1)",
        "--demo a worked example, on SmolLM2 unless a model is given",
        "--json print JSON",
    ):
        assert expected in lines
    assert lines.index("--json print JSON") > lines.index("--text TEXT where to count")
    assert out.endswith("Examples\n  cutaway interpret word-count --demo\n\nIn Python\n  text.count(word)\n\n")
    assert cutaway("help", "interpret", "word-count")[1] == out
    assert cutaway("interpret", "read-weights", "-h")[1].startswith("Usage  cutaway interpret read-weights [MODEL] [OPTIONS]\n")


def test_a_result_is_shown(cutaway, run):
    code, out, err = cutaway("interpret", "word-count", "play", "--text", "the king the", "--word", "the")
    assert (code, err) == (0, ""), err
    assert out == "Word count\n2 times in 'the king the'.\n\n[1] a view\n"


def test_without_a_model_it_is_the_latest_run(cutaway, run):
    assert cutaway("interpret", "read-weights")[:2] == (0, "Word count\n1 times in 'weights'.\n\n[1] a view\n")


def test_without_a_run_a_pretrained_model_is_named(cutaway):
    code, out, err = cutaway("interpret", "read-weights")
    assert (code, out) == (2, "")
    assert "there is no run in" in err
    assert "`smollm2-135m` is a pretrained one" in err


def test_json_is_what_the_result_holds(cutaway, run):
    code, out, _ = cutaway("interpret", "word-count", "--text", "the king", "--word", "king", "--times", "3", "--json")
    assert code == 0
    about = {"analysis": "Word count", "source": "Anyone 1900"}
    assert json.loads(out) == {**about, "n": 3, "text": "the king", "share": 0.08}


def test_a_report_is_one_page_with_the_command(cutaway, run, tmp_path):
    arguments = ("interpret", "word-count", "play", "--text", "the king", "--word", "the")
    arguments += ("--names", "a b", "--names", "c", "--device", "cpu")
    code, shown, err = cutaway(*arguments, "--report", "found.html")
    assert (code, err) == (0, ""), err
    assert shown.endswith("\n[1] a view\n\nThe report is in found.html.\n")
    page = (tmp_path / "found.html").read_text()
    for expected in ("<svg", "Anyone 1900"):
        assert expected in page
    assert page.count(">Word count<") == 2  # the title of the window, and that of the page
    (said,) = re.findall('<p class="subtitle">(.*)</p>', page)
    command = html.unescape(said)
    assert command == "cutaway interpret word-count play --text 'the king' --word the --names 'a b' --names c --device cpu"
    assert cutaway(*shlex.split(command)[1:])[1] == shown.rpartition("\n\nThe report")[0] + "\n"
    code, out, err = cutaway(*arguments, "--report", "again.html", "--json")
    assert (code, json.loads(out)["n"]) == (0, 1)
    assert err.endswith("The report is in again.html.\n")
    assert (tmp_path / "again.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--text", "the"], "--word is missing: give it, or --demo for a worked example"),
        ([], "--text and --word are missing: give them, or --demo for a worked example"),
        (["--text", "a", "--word", "a", "--report", "x.pdf"], "--report is 'x.pdf'; expected a file that ends in .html"),
        (["--text", "a", "--word", "a", "--report", "no/x.html"], "/no to write x.html in"),
        (["--text", "a", "--word", "a", "--times", "2", "--slowly"], "--times and --slowly do not go together: one hurries"),
        (["--text", "a", "--word", "a", "--times", "x"], "--times is 'x'; expected a whole number"),
        (["--txt", "a"], "`cutaway interpret word-count` has no option --txt; did you mean --text?"),
        (["--text", "Ж", "--word", "a"], "Ж"),
        (["nowhere", "--text", "a", "--word", "a"], "there is no file or folder nowhere"),
    ],
)
def test_mistakes_are_one_sentence(cutaway, run, arguments, sentence):
    code, out, err = cutaway("interpret", "word-count", *arguments)
    assert (code, out) == (2, "")
    assert sentence in err


def test_a_text_that_is_missing_is_said_where_nobody_can_be_asked(cutaway, run):
    assert cutaway("interpret", "say") == (2, "", "cutaway: --text is missing: give it, or --demo for a worked example\n")


def test_a_model_of_the_package_has_an_example_of_its_own(cutaway, verbs):
    code, out, _ = cutaway("interpret", "word-count", "ioi-mini", "--word", "Mary", "--json")
    assert code == 0
    assert json.loads(out)["text"] == "When Mary and John went to the store , John gave a drink to"
    code, _, err = cutaway("interpret", "word-count", "ioi-mini", "--demo")
    assert code == 2
    assert "ioi-mini has an example of its own, 'When Mary and John" in err


def test_the_worked_example_says_which_command_it_is(cutaway, run):
    code, out, err = cutaway("interpret", "word-count", "play", "--demo", "--times", "2")
    assert code == 0
    assert "4 times in 'the king and the queen'" in out
    said = err.splitlines()[0]
    assert said == "$ cutaway interpret word-count play --text 'the king and the queen' --word the --times 2"
    assert cutaway(*shlex.split(said)[2:])[:2] == (0, out)
    assert cutaway("interpret", "word-count", "play", "--demo", "--word", "king", "--names", "a", "--names", "b", "--slowly")[
        2
    ] == ("$ cutaway interpret word-count play --text 'the king and the queen' --word king --slowly --names a --names b\n\n")


def test_a_worked_example_may_have_its_own_model(cutaway, run):
    code, _, err = cutaway("interpret", "read-weights", "--demo")
    assert (code, err) == (0, "$ cutaway interpret read-weights runs/play\n\n")


def test_a_worked_example_has_all_that_is_needed():
    def lacking(lm, *, text: str, word: str):
        """Lack."""

    with pytest.raises(TypeError, match="the worked example of lacking lacks word"):
        analysis(text="a")(lacking)


def test_on_a_terminal_texts_are_asked_for(cutaway, run, typed):
    typed("the king", "Ж", "the", "", "never read")
    code, out, err = cutaway("interpret", "say")
    assert code == 0
    assert out.count("Word count") == 2
    assert "times in 'the king'" in out
    assert "Ж" in err
    assert "never read" not in out
    typed("the")
    assert cutaway("interpret", "say")[0] == 0
    typed()
    assert cutaway("interpret", "say", "--text", "the")[1].count("Word count") == 1


def test_several_texts_are_no_single_answer(cutaway, run, typed):
    typed("the")
    assert "--json shows one text: give it with --text" in cutaway("interpret", "say", "--json")[2]
    assert "--report shows one text: give it with --text" in cutaway("interpret", "say", "--report", "a.html")[2]


def test_ctrl_c_ends_the_session(cutaway, run, typed, monkeypatch):
    typed("the")
    monkeypatch.setattr("builtins.input", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    assert cutaway("interpret", "say")[0] == 130
