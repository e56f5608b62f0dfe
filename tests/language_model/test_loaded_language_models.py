"""A language model is loaded from a folder or a run as it was saved, or refused in a sentence, and a random one needs neither."""

import hashlib
import json
import string
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cutaway.config import ModelConfig
from cutaway.language_model import LanguageModel, load, random_model
from cutaway.model import Transformer
from cutaway.runs import values_sha256
from cutaway.tokenizers import CharTokenizer, NoTokenizer
from cutaway.weights import save_model
from run_directories import TRAIN


@pytest.fixture
def folder(lm: LanguageModel, tmp_path: Path) -> Path:
    """A saved language model that no run made."""
    save_model(lm.model, tmp_path / "mine")
    lm.tokenizer.save(tmp_path / "mine" / "tokenizer.json")
    return tmp_path / "mine"


@pytest.fixture
def run(lm: LanguageModel, tmp_path: Path) -> Path:
    """A run directory with two checkpoints of different weights and the hashes of their files."""
    run = tmp_path / "runs" / "tiny"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"model": lm.config.to_dict(), "train": TRAIN}))
    lm.tokenizer.save(run / "tokenizer.json")
    for step in (50, 100):
        checkpoint = run / "checkpoints" / f"step-{step:06d}"
        older = Transformer(lm.config).double()
        save_model(lm.model if step == 100 else older, checkpoint)
        sha256 = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in checkpoint.iterdir()}
        sha256["state.json"] = values_sha256({"step": step})
        (checkpoint / "state.json").write_text(json.dumps({"step": step, "sha256": sha256}))
    return run


def weights_of(model: Transformer) -> list[Any]:
    return [weight.tolist() for weight in model.parameters()]


def test_a_folder_is_loaded(folder: Path, lm: LanguageModel) -> None:
    again = load(folder, device="cpu")
    assert again.config == lm.config
    assert again.tokenizer.state_dict() == lm.tokenizer.state_dict()
    assert weights_of(again.model) == weights_of(lm.model)
    assert not again.model.training
    assert again.generate("But soft", max_new_tokens=10) == lm.generate("But soft", max_new_tokens=10)
    assert again.model.unembed.W_U.weight is again.model.embed.W_E


def test_what_was_saved_is_loaded(lm: LanguageModel, tmp_path: Path) -> None:
    talking = replace(lm, chat_template="{{ messages[0].content }}")
    talking.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.chat_template == talking.chat_template
    assert again.config == lm.config
    assert torch.equal(again.model(again.tokens("ab")), lm.model.eval()(lm.tokens("ab")))
    with pytest.raises(ValueError, match="model is there already: give a new folder"):
        lm.save(tmp_path / "model")


def test_dtype_and_device(folder: Path) -> None:
    again = load(str(folder), device="cpu", dtype=torch.bfloat16)
    assert {(weight.dtype, weight.device.type) for weight in again.model.parameters()} == {(torch.bfloat16, "cpu")}
    assert again.tokens("a").device.type == "cpu"
    assert again.generate("a", max_new_tokens=3).startswith("a")
    with pytest.raises(ValueError, match="'abacus' is not a device"):
        load(folder, device="abacus")


def test_of_a_run_the_newest_checkpoint_is_taken(run: Path, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    newest, older = run / "checkpoints" / "step-000100", run / "checkpoints" / "step-000050"
    for source in (run, newest, newest / "model.safetensors"):
        assert weights_of(load(source, device="cpu").model) == weights_of(lm.model)
    assert weights_of(load(older, device="cpu").model) != weights_of(lm.model)
    assert load(older, device="cpu").tokenizer.state_dict() == lm.tokenizer.state_dict()  # the run's
    monkeypatch.setenv("CUTAWAY_RUNS", str(run.parent))
    assert weights_of(load("tiny", device="cpu").model) == weights_of(lm.model)


@pytest.mark.parametrize("place", [200, -1])
def test_one_flipped_bit_is_noticed(run: Path, place: int) -> None:
    path = run / "checkpoints" / "step-000100" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged \(its sha256 is not the one recorded"):
        load(run, device="cpu")


def test_a_run_without_a_checkpoint(run: Path) -> None:
    (run / "checkpoints").rename(run / "elsewhere")
    with pytest.raises(ValueError, match="has no checkpoint yet: go on with it by `cutaway train --resume"):
        load(run)


def test_what_is_not_there(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no file or folder .*, and no run or model of that name; the models are smollm2-135m"
    ):
        load(tmp_path / "absent")
    (folder / "tokenizer.json").unlink()
    assert isinstance(load(folder, device="cpu").tokenizer, NoTokenizer)
    assert load(folder, device="cpu", tokenizer=CharTokenizer("ab")).tokens("ab").tolist() == [[0, 1]]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ValueError, match=str(folder)):
        load(folder, device="cpu")


def test_a_tokenizer_of_another_model(folder: Path) -> None:
    CharTokenizer.fit("".join(map(chr, range(200)))).save(folder / "tokenizer.json")
    with pytest.raises(ValueError, match="the char tokenizer has 200 tokens and the model d_vocab 120"):
        load(folder, device="cpu")


def test_a_random_model_needs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path))
    lm = random_model("shakespeare-char", device="cpu")
    assert lm.config == ModelConfig.preset("shakespeare-char", d_vocab=100)
    assert lm.tokenizer.state_dict() == CharTokenizer.fit(string.printable).state_dict()
    assert weights_of(random_model("shakespeare-char", device="cpu").model) == weights_of(lm.model)
    assert weights_of(random_model("shakespeare-char", seed=1, device="cpu").model) != weights_of(lm.model)
    assert not lm.model.training
    assert len(lm.generate("a", max_new_tokens=5)) == 6
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="no model preset 'gpt-17'"):
        random_model("gpt-17")


def test_loading_imports_no_compiler() -> None:
    """It takes longer to import than a small model to load."""
    code = "import sys, cutaway; cutaway.load('stdlib-1l'); sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
