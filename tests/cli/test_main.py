import ast
import os
import re
import subprocess
import sys
import textwrap
from importlib.metadata import version

import pytest

import cutaway as package
from cutaway.cli.command import load_command
from cutaway.cli.verbs import NESTED, VERBS, package_of

NAMES = [name for group in VERBS.values() for name in group]
NAMES += [f"{nested} {name}" for nested in NESTED for group in package_of(nested).VERBS.values() for name in group]
NAMES = [name for name in NAMES if name not in NESTED]


def run_process(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(("within", "verbs"), [((), VERBS), *((nested.split(), package_of(nested).VERBS) for nested in NESTED)])
def test_help_lists_every_verb_in_80_columns(cutaway, within, verbs):
    code, out, err = cutaway(*within, "--help")
    assert (code, err) == (0, "")
    lines = [line.strip() for line in out.splitlines()]
    for group in verbs.values():
        for name, summary in group.items():
            assert any(line.startswith(name) and summary in line for line in lines), f"{name} has no line of its own"
    assert max(map(len, out.splitlines())) <= 80
    assert cutaway(*within) == (code, out, err)
    assert cutaway(*within, "-h")[1] == cutaway(*within, "help")[1] == cutaway("help", *within)[1] == out


def test_help_may_stand_before_the_verb(cutaway):
    assert cutaway("help", "doctor") == cutaway("--help", "doctor") == cutaway("doctor", "--help")
    assert cutaway("help", "train", "attn-only-2l") == cutaway("train", "attn-only-2l", "--help")


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("name", NAMES)
def test_each_verb_has_help(cutaway, monkeypatch, name, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, err = cutaway(*name.split(), "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage  cutaway {name}")
    assert "\nOptions\n" in out
    assert "--help" in out
    assert max(len(line.rstrip()) for line in out.splitlines()) <= columns
    assert "\x1b" not in out
    assert "None|" not in out
    assert not set("╭│╰{}") & set(out.partition("In Python")[0])


@pytest.mark.parametrize("name", NAMES)
def test_the_python_of_help_imports_what_it_names(name):
    lines = ast.parse(load_command(*name.split()).sections.get("In Python", ""))
    nodes = list(ast.walk(lines))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}
    made = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    used = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert not (used - made - imported) & {"cutaway", "torch", *package.__all__}


@pytest.mark.parametrize("name", NAMES)
def test_examples_read_texts_that_are_here_and_that_their_model_can_read(name):
    """Tiny Shakespeare is fetched from an address of its own, and which characters runs/demo knows depends on whether it could be."""
    lines = [line for line in load_command(*name.split()).sections.get("Examples", "").splitlines() if "cutaway" in line]
    texts = {line: re.findall(r"--(?:corpus|data|train-on) (\S+)", line) for line in lines}
    assert not [line for line, found in texts.items() if "tinyshakespeare" in found]
    assert not [line for line, found in texts.items() if "runs/demo" in line and found]


@pytest.mark.parametrize("name", NAMES)
def test_the_python_of_help_is_python_as_it_is_shown(cutaway, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "80")
    ast.parse(textwrap.dedent(cutaway(*name.split(), "--help")[1].partition("In Python\n")[2]))


def test_the_version_is_the_package_s(cutaway):
    assert cutaway("--version") == (0, f"cutaway {version('cutaway')}\n", "")
    assert package.__version__ == version("cutaway")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["dowload"], "there is no command 'dowload'; did you mean `cutaway download`?"),
        (["TRAIN"], "there is no command 'TRAIN'; did you mean `cutaway train`?"),
        (["--versio"], "there is no command '--versio'; did you mean `cutaway --version`?"),
        (["xyzzy"], "there is no command 'xyzzy'; there are"),
        (["interpret", "patc"], "there is no command 'interpret patc'; did you mean `cutaway interpret patch`?"),
        (["interpret", "induction_heads"], "did you mean `cutaway interpret induction-heads`?"),
        (["interpret", "xyzzy"], "there is no command 'interpret xyzzy'; there are logit-lens, "),
        (["help", "interpret", "xyzzy"], "there is no command 'interpret xyzzy'; there are logit-lens, "),
        (["path-patch"], "there is no command 'path-patch'; did you mean `cutaway interpret path-patch`?"),
        (["--bogus"], "there is no command '--bogus'"),
        (["doctor", "--jsn"], "has no option --jsn; did you mean --json?"),
        (["doctor", "--json=yes"], "--json takes no value"),
        (["doctor", "thoroughly"], "`cutaway doctor` has no use for 'thoroughly'"),
        (["download", "gpt3"], "'gpt3' is no asset; did you mean 'gpt2'?"),
        (["inspect"], "there is no run in"),
        (["inspect", "nowhere"], "there is no file or folder nowhere, and no run or model of that name"),
        (["inspect", "."], ". holds no config.json, so it is no model"),
    ],
)
def test_mistakes_are_one_sentence_and_code_2(cutaway, arguments, sentence):
    code, out, err = cutaway(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("cutaway: ")
    assert sentence in err
    assert err.count("\n") == 1


def test_as_a_process_it_is_the_same():
    done = run_process("-m", "cutaway", "dowload", COLUMNS="80")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "cutaway: there is no command 'dowload'; did you mean `cutaway download`?\n"


@pytest.mark.parametrize(
    "argument",
    ["--help", "--version", "interpret", *(f"{verb} --help" for verb in ("inspect", "download", "bench", "doctor", "demo"))],
)
def test_help_needs_neither_torch_nor_matplotlib(argument):
    code = (
        "import sys; from cutaway.cli.main import main; main(sys.argv[1:]);"
        "heavy = {'torch', 'numpy', 'matplotlib', 'tyro', 'requests', 'huggingface_hub', 'tiktoken', 'questionary'};"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = run_process("-c", code, *argument.split())
    assert (done.returncode, done.stderr) == (0, "")


def test_help_of_what_looks_inside_needs_no_torch_either():
    verbs = [name.partition(" ")[2] for name in NAMES if name.startswith("interpret ")]
    code = (
        "import sys; from cutaway.cli.main import main\n"
        f"for verb in {verbs}: main(['interpret', *verb.split(), '--help'])\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'tyro', 'questionary'}; sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = run_process("-c", code)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_has_enough_is_no_error(tmp_path):
    command = f"{sys.executable} -m cutaway --help | head -1"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.startswith("cutaway")
    assert done.stderr == ""


def test_terminals_without_unicode_get_what_they_can_show():
    done = run_process("-m", "cutaway", "--help", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert done.stdout.isascii()


def test_colour_is_for_terminals_that_want_it():
    coloured = run_process("-m", "cutaway", "--help", FORCE_COLOR="1", NO_COLOR="").stdout
    plain = run_process("-m", "cutaway", "--help", FORCE_COLOR="1", NO_COLOR="1").stdout
    assert "\x1b[36m" in coloured
    assert "\x1b[36m" not in plain


def test_the_package_offers_its_names_and_no_others():
    assert set(package.__all__) <= set(dir(package))
    assert package.ModelConfig.preset("gpt2").n_layers == 12
    assert package.Transformer.__module__ == "cutaway.model.transformer"
    with pytest.raises(AttributeError, match="has no attribute 'Transfomer'"):
        _ = package.Transfomer
