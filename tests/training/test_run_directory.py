"""A run directory is what DESIGN.md says, holds no pickle, and training leaves the caller's state alone."""

import json
import pickle
import re
import signal
import sys
import threading
import zipfile
from importlib.metadata import version

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import cutaway
from cutaway.runs import Run
from cutaway.tokenizers import CharTokenizer, load_tokenizer, tokenizer_hash
from cutaway.training import TrainConfig, train
from cutaway.training.setup import claimed_folder
from tiny_training import hashes, tiny_config, write_text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTAWAY_CACHE", str(home / "cache"))
        return train(tiny_config(write_text(home), out=str(home / "run"), seed=7), quiet=True)


def test_every_file_is_where_the_design_has_it(folder):
    steps = [f"step-{step:06d}" for step in (0, 3, 6, 9, 12)]
    parts = ("config.json", "model.safetensors", "optimizer.safetensors", "state.json")
    expected = {"config.json", "manifest.json", "metrics.jsonl", "tokenizer.json", "checkpoints/latest", ".lock"}
    assert set(hashes(folder)) == expected | {f"checkpoints/{step}/{part}" for step in steps for part in parts}
    assert (folder / "checkpoints/latest").read_text().strip() == "step-000012"


def test_the_configuration_can_be_trained_again(folder):
    values = json.loads((folder / "config.json").read_text())
    assert values.keys() == {"model", "train"}
    config = TrainConfig.from_dict({**values["train"], "model": values["model"]})
    assert config.model == Run(folder).model_config == cutaway.load(folder).config
    assert (config.n_steps, config.seed, config.model.d_vocab) == (12, 7, load_tokenizer(folder / "tokenizer.json").d_vocab)
    checkpoint = json.loads((folder / "checkpoints/step-000012/config.json").read_text())
    assert checkpoint == values["model"]


def test_the_manifest_says_where_all_of_it_came_from(folder):
    manifest = Run(folder).manifest
    data = folder.parent / "play.txt"
    tokenizer = CharTokenizer.fit(data.read_text())
    assert manifest["versions"] == {
        "cutaway": version("cutaway"),
        "torch": torch.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
    }
    assert (manifest["seed"], manifest["argv"]) == (7, sys.argv)
    assert manifest["device"].startswith("CPU")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", manifest["started"])
    assert manifest["data"]["sha256"] == hashes(folder.parent)["play.txt"]
    assert manifest["data"]["source"] == str(data)
    assert manifest["data"]["n_train_tokens"] + manifest["data"]["n_validation_tokens"] == len(data.read_text())
    assert manifest["tokenizer"] == {"kind": "char", "d_vocab": tokenizer.d_vocab, "sha256": tokenizer_hash(tokenizer)}


def test_the_tensors_are_the_model_s_and_its_averages(folder):
    model = cutaway.load(folder).model
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    weights = load_file(folder / "checkpoints/step-000012/model.safetensors")
    averages = load_file(folder / "checkpoints/step-000012/optimizer.safetensors")
    assert {name: tensor.shape for name, tensor in weights.items()} == shapes
    assert {name: tensor.shape for name, tensor in averages.items()} == {
        f"{name}.{average}": shape for name, shape in shapes.items() for average in ("exp_avg", "exp_avg_sq")
    }
    assert all(np.isfinite(tensor).all() for tensor in [*weights.values(), *averages.values()])


def test_the_state_names_its_place_and_the_hashes_of_the_files(folder):
    checkpoint = folder / "checkpoints/step-000009"
    state = json.loads((checkpoint / "state.json").read_text())
    assert (state["step"], state["loader"]) == (9, {"seed": 7, "n_drawn": 18})
    found = hashes(checkpoint)
    assert state["sha256"].keys() == found.keys()
    assert all(state["sha256"][name] == found[name] for name in found if name != "state.json")


def test_a_new_name_is_found_for_each_run(config):
    names = [train(config.replace(n_steps=1, name="play"), quiet=True).name for _ in range(3)]
    assert names == ["play", "play-2", "play-3"]


def test_a_folder_that_holds_a_run_is_refused(folder, config):
    before = hashes(folder)
    with pytest.raises(ValueError, match="holds a run already: go on with it by --resume"):
        train(config.replace(out=str(folder)), quiet=True)
    assert hashes(folder) == before


def test_a_folder_with_other_things_is_refused(config, tmp_path):
    (tmp_path / "mine").mkdir()
    for name in ("notes.md", "config.json"):
        (tmp_path / "mine" / name).write_text('{"model_type": "gpt2"}')
        with pytest.raises(ValueError, match=rf"mine holds {name} and is no run: give a new or an empty folder with --out"):
            train(config.replace(n_steps=1, out=str(tmp_path / "mine")), quiet=True)
        assert [file.name for file in (tmp_path / "mine").iterdir()] == [name]
        (tmp_path / "mine" / name).rename(tmp_path / name)
    (tmp_path / "mine/tokenizer.json").write_text("{}")  # a run that was stopped before it was one
    assert (train(config.replace(n_steps=1, out=str(tmp_path / "mine")), quiet=True) / "config.json").is_file()
    with pytest.raises(ValueError, match="is a file; expected a folder"):
        train(config.replace(out=str(tmp_path / "notes.md")), quiet=True)


def test_a_text_too_short_leaves_nothing_behind(config, tmp_path):
    with pytest.raises(ValueError, match="each needs at least 17"):
        train(config.replace(data=str(write_text(tmp_path, n_words=8, name="short.txt"))), quiet=True)
    assert list((tmp_path / "runs").iterdir()) == []


def fail_at(step):
    def observe(at, model):
        if at == step:
            raise RuntimeError("it broke")
        return {}

    return {"fail": observe}


def test_a_start_that_fails_leaves_no_run_behind(config, tmp_path):
    with pytest.raises(RuntimeError, match="it broke"):
        train(config, observers=fail_at(0), quiet=True)
    assert list((tmp_path / "runs").iterdir()) == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/.keep").touch()
    with pytest.raises(RuntimeError, match="it broke"):
        train(config.replace(out=str(tmp_path / "mine")), observers=fail_at(0), quiet=True)
    assert [file.name for file in (tmp_path / "mine").iterdir()] == [".keep"]


def test_what_fails_after_a_checkpoint_keeps_it(config, tmp_path):
    with pytest.raises(RuntimeError, match="it broke"):
        train(config.replace(name="play"), observers=fail_at(4), quiet=True)
    assert Run(tmp_path / "runs/play").latest_checkpoint().step == 3


def test_another_process_keeps_its_folder(config, tmp_path):
    """One that comes second, before the first has written what makes a folder a run, takes nothing away."""
    with claimed_folder("play", str(tmp_path / "run")) as folder:
        (folder / "tokenizer.json").write_text("{}")
        with pytest.raises(ValueError, match="another process is training in"):
            train(config.replace(out=str(folder)), quiet=True)
        assert (folder / "tokenizer.json").is_file()


@pytest.mark.parametrize("changes", [{"batch_size": 10**11}, {"d_model": 10**7}], ids=str)
def test_more_memory_than_there_is_is_refused_at_once(play, changes, tmp_path):
    with pytest.raises(
        ValueError, match=r"the model needs .* GiB of memory for weights, gradients.* take a smaller model or batch"
    ):
        train(tiny_config(play, **changes), quiet=True)
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_model_that_sees_what_it_should_predict_is_not_trained(play):
    with pytest.raises(ValueError, match="is_causal is False, and a model that reads both ways sees what it would learn"):
        tiny_config(play, is_causal=False, sample_every=0)


def test_a_seed_has_64_bits(config):
    with pytest.raises(ValueError, match="seed is 18446744073709551616; expected at least 0 and less than 2"):
        config.replace(seed=2**64)
    train(config.replace(seed=2**64 - 1, n_steps=1), quiet=True)


def test_a_name_is_taken_at_once(config):
    """Two that start together do not share a folder, however long one of them reads its text."""
    with claimed_folder("play", None) as first, claimed_folder("play", None) as second:
        assert [first.name, second.name] == ["play", "play-2"]
        assert train(config.replace(n_steps=1, name="play"), quiet=True).name == "play-3"


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "shakespeare-char"),
        ({"data": "tinyshakespeare"}, "shakespeare-char"),
        ({"data": "/home/me/my notes.txt"}, "my-notes"),
        ({"data": "src/*.py"}, "py"),
        ({"data": "**"}, "shakespeare-char"),
        ({"data": "notes.txt", "name": "mine"}, "mine"),
    ],
)
def test_a_run_is_called_after_the_text_that_replaces_the_preset_s(changes, name):
    assert TrainConfig.preset("shakespeare-char", **changes).name == name


def test_no_pickle_is_written(config, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a pickle was written")

    for module, name in ((torch, "save"), (pickle, "dump"), (pickle, "dumps"), (pickle, "Pickler")):
        monkeypatch.setattr(module, name, refuse)
    folder = train(config, quiet=True)
    for path in folder.rglob("*"):
        if path.is_file():
            assert path.suffix in (".json", ".jsonl", ".safetensors", ""), path
            assert not zipfile.is_zipfile(path), "torch.save writes pickles in a zip"


@pytest.mark.parametrize("is_grad", [True, False])
def test_the_caller_s_state_is_left_alone(config, is_grad):
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    torch.manual_seed(11)
    np.random.seed(11)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    dtype, n_threads = torch.get_default_dtype(), torch.get_num_threads()
    with torch.set_grad_enabled(is_grad):
        train(config, quiet=True)
        assert torch.is_grad_enabled() is is_grad
    assert not torch.is_inference_mode_enabled()
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.random.get_state()[1].tolist() == numpy_state
    assert (torch.get_default_dtype(), torch.get_num_threads()) == (dtype, n_threads)
    assert {number: signal.getsignal(number) for number in handlers} == handlers


def test_the_caller_s_random_numbers_change_nothing(config, tmp_path):
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        runs.append(train(config.replace(out=str(tmp_path / f"seed-{seed}")), quiet=True))
    weights = [hashes(run / "checkpoints/step-000012")["model.safetensors"] for run in runs]
    assert weights[0] == weights[1]


def test_it_trains_outside_the_main_thread_too(config):
    found = []
    thread = threading.Thread(target=lambda: found.append(train(config, quiet=True)))
    thread.start()
    thread.join(timeout=60)
    assert Run(found[0]).latest_checkpoint().step == 12
