"""Evaluations, stores and sweeps that several processes share: what one alone finds, also after one of them was killed."""

import json
import signal
from pathlib import Path

import pytest
import torch

from cutaway.cli.main import main
from cutaway.ranks import Ranks, shared_work, sharing_ranks
from many_processes import HERE, run_ranks, start_ranks
from share_on_ranks import work
from tiny_training import hashes, tiny_config, write_text

SCRIPT = HERE / "share_on_ranks.py"


def work_alone(folder: Path) -> None:
    """Do the work here, with as many threads as each of several processes has."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    work(folder)
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process found."""
    folder = tmp_path_factory.mktemp("alone")
    work_alone(folder)
    return folder


def found_in(folder: Path) -> dict:
    return json.loads((folder / "found.json").read_text())


def test_three_find_what_one_finds(alone, tmp_path):
    printed = run_ranks(3, SCRIPT, tmp_path)
    ours, theirs = found_in(tmp_path), found_in(alone)
    assert ours["evaluation"] == theirs["evaluation"]  # the same batches, computed by others
    assert hashes(tmp_path / "store") == hashes(alone / "store")
    assert ours["scores"] == [pytest.approx(each, abs=1e-12) for each in theirs["scores"]]  # other cells are packed together
    assert len({tuple(each) for each in ours["scores"]}) == 7
    assert ours["few"] == [pytest.approx(each, abs=1e-12) for each in theirs["few"]]  # fewer variants than processes
    assert not list((tmp_path / "partial").iterdir())
    assert ["variants run whole" in out for out, _ in printed] == [True, False, False]


@pytest.mark.parametrize("killed_in", ["evaluation", "store"])
def test_one_goes_on_with_what_was_killed_in_two(alone, tmp_path, killed_in):
    processes = start_ranks(2, SCRIPT, tmp_path, killed_in)
    (_, said), _ = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [1, -signal.SIGKILL]
    assert "another process of this job ended" in said
    assert not (tmp_path / "found.json").exists()
    folder, file = ("partial", "*-1.jsonl") if killed_in == "evaluation" else ("store", ".manifest-1.json")
    assert len(list((tmp_path / folder).glob(file))) == 1  # what the killed one had done
    work_alone(tmp_path)
    assert found_in(tmp_path)["evaluation"] == found_in(alone)["evaluation"]
    assert hashes(tmp_path / "store") == hashes(alone / "store")
    assert not list((tmp_path / "partial").iterdir())


def test_processes_that_ask_for_different_things_are_refused(tmp_path):
    (_, said), (_, other) = run_ranks(2, SCRIPT, tmp_path, "different", returncode=1)
    sentence = (
        "ValueError: processes 0 and 1 of this job asked for different things (a sweep): all must ask the same in the same order"
    )
    assert sentence in said
    assert "asked for" not in other  # torch may add that the first is gone


def test_one_that_asks_alone_is_told_that_all_must(tmp_path):
    first, last = start_ranks(2, SCRIPT, tmp_path, "once")
    (_, said), _ = (process.communicate(timeout=240) for process in (first, last))
    assert (first.returncode, last.returncode) == (1, 0)
    assert "did not ask what this one asks, and all must" in said


def test_a_process_group_of_one_s_own_is_refused(tmp_path):
    program = "import torch.distributed as dist; dist.init_process_group('gloo'); from cutaway import shared_work\n"
    program += "with shared_work('cpu'): pass"
    (_, said), _ = run_ranks(2, "-c", program, returncode=1)
    assert "ValueError: this program has begun a process group of its own: leave out init_process_group" in said


def test_outside_of_shared_work_everyone_is_alone(monkeypatch):
    assert sharing_ranks() == Ranks()
    with shared_work("cpu") as ranks:
        assert ranks == sharing_ranks() == Ranks()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run to evaluate."""
    from cutaway.training import train

    home = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTAWAY_CACHE", str(home / "cache"))
        return train(tiny_config(write_text(home), out=str(home / "run"), n_steps=4), quiet=True)


def test_one_of_them_speaks(run, tmp_path, monkeypatch, capsys):
    words = ["evaluate", str(run), "--device", "cpu", "--json"]
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path / "cache"))
    (first, _), (second, said) = run_ranks(2, "-m", "cutaway", *words)
    assert (second, said) == ("", "")
    assert main(words) == 0
    assert rounded(json.loads(first)) == rounded(json.loads(capsys.readouterr().out))


def test_one_of_them_writes_the_page(run, tmp_path):
    words = ["interpret", "ablate", str(run), "--text", "the king", "--target", "s", "--wrong", "q", "--device", "cpu"]
    (first, _), (second, said) = run_ranks(2, "-m", "cutaway", *words, "--report", tmp_path / "page.html")
    assert "The report is in" in first
    assert (second, said) == ("", "")
    assert "ablate" in (tmp_path / "page.html").read_text()


def rounded(values):
    """Return JSON values rounded where another packing may round otherwise."""
    match values:
        case float():
            return round(values, 5)
        case dict():
            return {name: rounded(value) for name, value in values.items()}
        case list():
            return [rounded(value) for value in values]
        case _:
            return values


def test_the_work_of_one_is_not_started_by_many(run):
    (_, said), (_, silent) = run_ranks(2, "-m", "cutaway", "generate", run, returncode=2)
    assert said == "cutaway: `cutaway generate` is the work of one process: start it without torchrun\n"
    assert silent == ""
