import errno

import pytest

from cutaway.assets import AssetError
from cutaway.cli.errors import UsageError, report_error


def raised(error):
    """Return an exception as it is caught: with a traceback, from code that is not cutaway's."""
    with pytest.raises(type(error)) as caught:
        raise error
    return caught.value


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (ValueError("n_heads is 0; expected at least 1"), 2, "cutaway: n_heads is 0; expected at least 1"),
        (UsageError("there is no command 'x'"), 2, "cutaway: there is no command 'x'"),
        (FileNotFoundError("there is no run x"), 2, "cutaway: there is no run x"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "a.txt"),
            2,
            "cutaway: a.txt: no such file or directory",
        ),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "a"), 2, "cutaway: a: is a directory"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), 1, "cutaway: a: permission denied"),
        (AssetError("gpt2 could not be fetched"), 1, "cutaway: gpt2 could not be fetched"),
        (
            ModuleNotFoundError("No module named 'tensorboard.x'", name="tensorboard.x"),
            1,
            "'tensorboard' is not installed",
        ),
        (MemoryError(), 1, "there is not enough memory"),
        (KeyboardInterrupt(), 130, "cutaway: interrupted"),
        (KeyError("x"), 1, "this is a bug in cutaway (KeyError: 'x'); run it again with CUTAWAY_TRACEBACK=1"),
        (ModuleNotFoundError("No module named 'cutaway.x'", name="cutaway.x"), 1, "this is a bug"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), 1, "this is a bug"),
        (
            RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore"),
            1,
            "not enough memory (CUDA out of memory.",
        ),
    ],
)
def test_each_error_becomes_a_sentence_and_a_code(error, code, sentence, capsys, monkeypatch):
    monkeypatch.delenv("CUTAWAY_TRACEBACK", raising=False)
    assert report_error(raised(error)) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err


def test_what_cutaway_itself_raises_is_told_in_its_own_words(capsys):
    namespace = {"__name__": "cutaway.somewhere"}
    exec("def fail(): raise RuntimeError('the loss is not finite at step 3')", namespace)
    with pytest.raises(RuntimeError) as caught:
        namespace["fail"]()
    assert report_error(caught.value) == 1
    assert capsys.readouterr().err == "cutaway: the loss is not finite at step 3\n"


def test_a_full_disk_names_the_file(capsys):
    assert report_error(raised(OSError(errno.ENOSPC, "No space left on device", "runs/a/model.safetensors"))) == 1
    said = capsys.readouterr().err
    assert "the disk is full: runs/a/model.safetensors could not be written; free some space" in said


def test_the_traceback_is_shown_when_asked_for(capsys, monkeypatch):
    monkeypatch.setenv("CUTAWAY_TRACEBACK", "1")
    assert report_error(raised(ValueError("no"))) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.endswith("cutaway: no\n")


def test_of_another_library_s_failure_the_first_line_is_told(capsys):
    error = type("CompilerError", (RuntimeError,), {})("no compiler was found\n\nset SOME_VARIABLE to learn more")
    assert report_error(raised(error)) == 1
    assert capsys.readouterr().err == "cutaway: no compiler was found\n"
