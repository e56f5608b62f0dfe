"""A run that was stopped goes on as if it had not been: bit for bit, and only as the same run."""

import json
import math
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch

import cutaway
from cutaway.runs import Checkpoint, Run
from cutaway.training import TrainingError, resume, train
from cutaway.training import trainer as trainer_module
from tiny_training import hashes, learned, tiny_config, write_text

TRAIN_CHANGES = {"validate_every": 1, "save_every": 5}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a text and a run over it that was never interrupted."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTAWAY_CACHE", str(home / "cache"))
        train(tiny_config(write_text(home), out=str(home / "whole"), **TRAIN_CHANGES), quiet=True)
    return home


@pytest.fixture
def config(home, tmp_path):
    return tiny_config(home / "play.txt", out=str(tmp_path / "run"), **TRAIN_CHANGES)


@pytest.fixture
def run(home, tmp_path):
    """A copy of the whole run."""
    return Path(shutil.copytree(home / "whole", tmp_path / "copy"))


def interrupt_while_looking(step, monkeypatch):
    def observe(at, model):
        if at == step:
            os.kill(os.getpid(), signal.SIGINT)
        return {}

    return {"interrupt": observe}


def interrupt_within_a_step(step, monkeypatch):
    rate = trainer_module.learning_rate

    def interrupted(at, config):
        if at == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return rate(at, config)

    monkeypatch.setattr(trainer_module, "learning_rate", interrupted)
    return {}


@pytest.mark.parametrize("interrupt", [interrupt_while_looking, interrupt_within_a_step])
@pytest.mark.parametrize("step", [1, 5, 8])
def test_a_stopped_run_goes_on_bit_for_bit(config, home, interrupt, step, monkeypatch):
    with monkeypatch.context() as patch:
        observers = interrupt(step, patch)
        with pytest.raises(KeyboardInterrupt, match=f"stopped and saved after step {step}; go on by `cutaway train --resume"):
            train(config, observers=observers, quiet=True)
    folder = Path(config.out)
    assert Run(folder).latest_checkpoint().step == step
    assert cutaway.load(folder).generate("the", max_new_tokens=3).startswith("the")
    assert resume(folder, quiet=True) == folder
    assert learned(folder) == learned(home / "whole")


def test_a_run_stopped_again_and_again_is_the_same(config, home, monkeypatch):
    stops = iter([2, 3, 7])
    start = lambda **given: train(config, quiet=True, **given)  # noqa: E731
    for step in stops:
        with pytest.raises(KeyboardInterrupt):
            start(observers=interrupt_while_looking(step, monkeypatch))
        start = lambda **given: resume(config.out, quiet=True, **given)  # noqa: E731
    start()
    assert learned(Path(config.out)) == learned(home / "whole")


def test_a_second_interrupt_does_not_wait(config):
    def observe(step, model):
        if step == 4:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("it waited")
        return {}

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(config, observers={"interrupt": observe}, quiet=True)
    assert signal.getsignal(signal.SIGINT) is before
    assert Run(Path(config.out)).latest_checkpoint().step == 0


def test_two_runs_of_one_seed_are_equal_and_of_two_are_not(config, home, tmp_path):
    train(config, quiet=True)
    other = train(config.replace(out=str(tmp_path / "other"), seed=1), quiet=True)
    assert learned(Path(config.out)) == learned(home / "whole")
    assert learned(other) != learned(home / "whole")


def test_a_finished_run_stays_as_it_is(run):
    before = hashes(run)
    resume(run, quiet=True)
    assert hashes(run) == before


def test_more_steps_go_on_from_the_last_and_are_remembered(run, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        resume(run, n_steps=20, observers=interrupt_while_looking(14, monkeypatch), quiet=True)
    resume(run, quiet=True)  # to 20, as the run now is one of 20 steps
    metrics = Run(run).metrics()
    assert metrics.curve("loss")[0] == list(range(1, 21))
    assert Run(run).recipe["n_steps"] == 20
    assert Run(run).latest_checkpoint().step == 20
    assert (run / "checkpoints/latest").read_text() == "step-000020\n"


def test_fewer_steps_than_done_are_refused(run):
    before = hashes(run)
    with pytest.raises(ValueError, match="has done 12 steps already; n_steps is 8"):
        resume(run, n_steps=8)
    assert hashes(run) == before


@pytest.mark.parametrize(
    "change", [{"batch_size": 8}, {"learning_rate": 0.1, "seed": 3}, {"data": "stdlib"}, {"out": "x"}, {"n_layers": 2}]
)
def test_what_would_make_it_another_run_is_refused(run, change):
    before = hashes(run)
    with pytest.raises(ValueError, match=f"a resumed run keeps its {', '.join(change)}; it may change compile, device"):
        resume(run, **change)
    assert hashes(run) == before


@pytest.mark.parametrize("change", [{"device": "abacus"}, {"watch": ("nroms",)}, {"log_every": 0}])
def test_a_change_that_cannot_work_is_not_kept(run, change):
    before = hashes(run)
    with pytest.raises(ValueError, match=r"abacus|nroms|log_every"):
        resume(run, n_steps=20, **change)
    assert hashes(run) == before


def at_another_place(run, text):
    """Let the run's data be at a place of its own, so that a test may change it."""
    values = json.loads((run / "config.json").read_text())
    values["train"]["data"] = str(text)
    (run / "config.json").write_text(json.dumps(values))


def test_another_text_at_the_same_place_is_refused(run, tmp_path):
    at_another_place(run, write_text(tmp_path, seed=1))
    before = hashes(run)
    with pytest.raises(ValueError, match=r"play\.txt is not the text that .* began with \(its sha256 differs\)"):
        resume(run, n_steps=20)
    assert hashes(run) == before
    write_text(tmp_path)
    resume(run, n_steps=13, quiet=True)


def test_another_tokenizer_is_refused(run):
    values = json.loads((run / "tokenizer.json").read_text())
    values["characters"] = values["characters"] + "é"
    (run / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"tokenizer\.json is not the tokenizer"):
        resume(run, n_steps=20)


def test_a_run_without_its_manifest_is_refused(run):
    (run / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"manifest\.json does not say what the run began with"):
        resume(run, n_steps=20)


def test_a_checkpoint_of_another_configuration_is_refused(run, tmp_path, home):
    other = train(tiny_config(home / "play.txt", n_layers=2, n_steps=15, out=str(tmp_path / "other")), quiet=True)
    shutil.copytree(other / "checkpoints/step-000015", run / "checkpoints/step-000015")
    before = hashes(run)
    with pytest.raises(ValueError, match=r"step-000015 belongs to another configuration: it has n_layers 2 \(not 1\)"):
        resume(run, n_steps=20)
    assert hashes(run) == before | {"config.json": hashes(run)["config.json"]}


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "config.json"])
def test_a_flipped_bit_is_noticed_and_nothing_is_deleted(run, name):
    file = run / "checkpoints/step-000012" / name
    content = bytearray(file.read_bytes())
    draw = random.Random(0)
    for _ in range(20):
        place = draw.randrange(len(content))
        file.write_bytes(content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :])
        before = hashes(run)
        with pytest.raises(
            ValueError, match=rf"step-000012/{name} is damaged .* or remove step-000012 to go on from the one before"
        ):
            resume(run)
        assert hashes(run) == before
    shutil.rmtree(file.parent)
    resume(run, quiet=True)
    assert Run(run).latest_checkpoint().step == 12


def test_a_flipped_bit_in_the_state_changes_nothing_unnoticed(run):
    """Wherever it is: the state is refused, or means the same (the bit may turn one blank into another)."""
    checkpoint = Checkpoint.at(run / "checkpoints/step-000012")
    file = checkpoint.path / "state.json"
    content, values = file.read_bytes(), checkpoint.verify()
    n_refused = 0
    for place in range(len(content)):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        try:
            assert checkpoint.verify() == values, content[max(place - 9, 0) : place + 9]
        except ValueError:
            n_refused += 1
    assert n_refused > len(content) * 0.8


def test_a_missing_file_of_a_checkpoint_is_named(run):
    (run / "checkpoints/step-000012/optimizer.safetensors").unlink()
    with pytest.raises(ValueError, match=r"optimizer\.safetensors is missing"):
        resume(run)


def test_leftovers_of_a_killed_writer_are_cleared(run, home):
    shutil.rmtree(run / "checkpoints/step-000012")
    rest = run / "checkpoints/.step-000012.123.tmp"
    rest.mkdir()
    (rest / "model.safetensors").write_bytes(b"half")
    (run / "checkpoints/.latest.123.tmp").write_text("st")
    (run / ".manifest.json.123.tmp").write_text("{")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "loss": 1')
    resume(run, quiet=True)
    assert set(hashes(run)) == set(hashes(home / "whole"))
    assert learned(run) == learned(home / "whole")


def test_a_run_killed_before_its_first_checkpoint_begins_anew(run, home):
    shutil.rmtree(run / "checkpoints")
    (run / "metrics.jsonl").write_text('{"step": 0, "val_loss": 9.0}\n')
    resume(run, quiet=True)
    assert learned(run) == learned(home / "whole")


def fill_with_nan(step):
    def observe(at, model):
        if at == step:
            with torch.no_grad():
                model.embed.W_E.fill_(math.nan)
        return {}

    return {"spoil": observe}


def test_a_loss_that_is_not_finite_stops_and_the_last_good_checkpoint_loads(config):
    with pytest.raises(TrainingError, match="loss is nan after step 8, so training stopped; the checkpoint of step 5 is whole"):
        train(config, observers=fill_with_nan(7), quiet=True)
    folder = Path(config.out)
    metrics = Run(folder).metrics()
    assert metrics.curve("loss")[0] == list(range(1, 8))
    assert all(math.isfinite(loss) for loss in metrics.curve("loss")[1])
    assert all(weight.isfinite().all() for weight in cutaway.load(folder).model.parameters())


def test_a_run_that_was_spoilt_goes_on_as_if_it_had_not_been(config, home):
    with pytest.raises(TrainingError):
        train(config, observers=fill_with_nan(7), quiet=True)
    resume(config.out, quiet=True)
    assert learned(Path(config.out)) == learned(home / "whole")


def test_a_rate_far_too_high_is_noticed_at_the_last_step_too(config):
    config = config.replace(n_steps=1, learning_rate=1e39, min_learning_rate=1e39, n_warmup_steps=0)
    with pytest.raises(TrainingError, match=r"val_loss is nan after step 1, .* the checkpoint of step 0 is whole; try a lower"):
        train(config, quiet=True)
    assert Run(Path(config.out)).latest_checkpoint().step == 0
