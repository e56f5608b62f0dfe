"""Whatever is given wrongly: one sentence that says what, the right exit code, no traceback, and nothing saved changes."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import cutaway as package
from cutaway.runs import values_sha256
from tiny_training import OPTIONS, hashes, tiny_config, write_text


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTAWAY_CACHE", str(home / "cache"))
        return package.train(tiny_config(write_text(home), out=str(home / "run"), sample_every=0), quiet=True)


@pytest.fixture
def folder(trained, tmp_path):
    """A folder with a run, its text, and texts of every bad kind."""
    shutil.copytree(trained, tmp_path / "runs/play")
    shutil.copy(trained.parent / "play.txt", tmp_path)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "blank.txt").write_text(" \n\n\t ")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "latin1.txt").write_bytes("café ".encode("latin-1") * 200)
    (tmp_path / "short.txt").write_text("to be or not to be")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/list.txt").write_text("milk")
    (tmp_path / "other.json").write_text('{"kind": "abacus"}')
    return tmp_path


TRAIN = {
    "empty text": (["--data", "empty.txt"], "empty.txt holds no text: give a file with something to learn from"),
    "blank text": (["--data", "blank.txt"], "blank.txt holds no text"),
    "binary text": (["--data", "binary.txt"], "binary.txt is a binary file (it holds NUL bytes); expected UTF-8 text"),
    "text that is not UTF-8": (["--data", "latin1.txt"], "latin1.txt is not UTF-8 text (byte 3 is 0xe9); convert it first"),
    "text shorter than a window": (["--data", "short.txt"], "each needs at least 17 (a window of 16 and one): give more text"),
    "no such text": (["--data", "nowhere.txt"], "there is no file, folder or glob match 'nowhere.txt'; corpora with a name are"),
    "folder without text": (["--data", "pictures"], "the folder pictures holds no text file"),
    "unknown preset": (["shakespear"], "there is no training preset 'shakespear'; there are shakespeare-char"),
    "unknown tokenizer": (["--tokenizer", "word"], "there is no tokenizer 'word'; expected char, bpe-4096"),
    "a file that is no tokenizer": (["--tokenizer", "other.json"], "other.json is of kind 'abacus'; expected a tokenizer"),
    "too few byte pairs": (["--tokenizer", "bpe-12"], "12"),
    "unknown device": (["--device", "abacus"], "'abacus' is not a device; this machine has cpu"),
    "absent device": (["--device", "xpu"], "device 'xpu' is not on this machine, which has cpu"),
    "unknown observer": (["--watch", "nroms"], "there is no observer 'nroms'; did you mean 'norms'? there are induction"),
    "sizes that do not divide": (["--d-model", "18", "--n-heads", "4"], "d_model 18 does not divide into n_heads 4: change one"),
    "groups that do not divide": (["--n-heads", "4", "--n-kv-heads", "3"], "n_heads 4 does not divide into n_kv_heads 3 groups"),
    "no layer of a size": (["--d-model", "0"], "d_model is 0; expected a whole number of at least 1"),
    "unknown norm": (["--norm", "batchnorm"], "--norm is 'batchnorm'; expected layernorm, rmsnorm or none; see"),
    "dropout of all": (["--dropout", "1.0"], "dropout is 1.0; expected at least 0 and less than 1"),
    "negative rate": (["--learning-rate", "-0.1"], "learning_rate is -0.1; expected more than 0"),
    "a seed of more than 64 bits": (
        ["--seed", "99999999999999999999"],
        "seed is 99999999999999999999; expected at least 0 and less",
    ),
    "a model that reads both ways": (["--no-is-causal"], "`cutaway train` has no option --no-is-causal"),
    "more memory than there is": (["--d-model", "10000000"], "GiB of memory for weights, gradients, AdamW's two averages"),
    "a batch that fits nowhere": (["--batch-size", "100000000000"], "take a smaller model or batch"),
    "no steps": (["--n-steps", "0"], "n_steps is 0; expected at least 1"),
    "all of the text to validate": (["--validation-fraction", "1"], "validation_fraction is 1.0; expected between 0 and 1"),
    "unknown precision": (["--dtype", "float16"], "--dtype is 'float16'; expected auto, float32 or bfloat16; see"),
    "not a number": (["--n-steps", "many"], "--n-steps"),
    "unknown option": (["--n-step", "3"], "has no option --n-step; did you mean --n-steps?"),
    "a folder that holds a run": (["--out", "runs/play"], "runs/play holds a run already: go on with it by --resume runs/play"),
    "a file for a folder": (["--out", "play.txt"], "play.txt is a file; expected a folder for the run"),
}


def says_one_sentence(said, sentence):
    code, out, err = said
    assert (code, out) == (2, "")
    assert err.startswith("cutaway: ")
    assert err.count("\n") == 1
    assert sentence in err
    assert "bug in cutaway" not in err


@pytest.mark.parametrize(("arguments", "sentence"), TRAIN.values(), ids=TRAIN)
def test_train(cutaway, folder, arguments, sentence):
    before = hashes(folder / "runs")
    preset = [] if arguments[0].startswith("-") else [arguments[0]]
    said = cutaway("train", *preset, "--data", "play.txt", *OPTIONS, *arguments[len(preset) :])
    says_one_sentence(said, sentence)
    assert hashes(folder / "runs") == before


RESUME = {
    "no such run": (["nowhere"], "there is no run nowhere; "),
    "a folder that is no run": (["notes"], "notes is no run: expected a folder with the config.json"),
    "another shape": (["play", "--n-layers", "2"], "a resumed run keeps its n_layers; it may change"),
    "another batch": (["play", "--batch-size", "8", "--seed", "1"], "a resumed run keeps its batch_size, seed; it may change"),
    "fewer steps than done": (["play", "--n-steps", "5"], "has done 12 steps already; n_steps is 5"),
    "unknown device": (["play", "--device", "abacus"], "'abacus' is not a device"),
}


@pytest.mark.parametrize(("arguments", "sentence"), RESUME.values(), ids=RESUME)
def test_resume(cutaway, folder, arguments, sentence):
    before = hashes(folder / "runs")
    says_one_sentence(cutaway("train", *arguments, "--resume"), sentence)
    assert hashes(folder / "runs") == before


def test_resume_without_any_run(cutaway, tmp_path):
    says_one_sentence(cutaway("train", "--resume"), "yet: make one with `cutaway train`, or name the folder of one")


GENERATE = {
    "top-p of 0": (["the", "--top-p", "0"], "top_p is 0.0; expected more than 0 and at most 1"),
    "top-p above 1": (["the", "--top-p", "1.5"], "top_p is 1.5; expected more than 0 and at most 1"),
    "top-p below 0": (["the", "--top-p", "-1"], "top_p is -1.0; expected more than 0 and at most 1"),
    "negative temperature": (["the", "--temperature", "-1"], "temperature is -1.0; expected 0 (the most likely token) or more"),
    "temperature that is no number": (["the", "--temperature", "nan"], "temperature is nan"),
    "top-k of 0": (["the", "--top-k", "0"], "top_k is 0; expected at least 1, or None for all tokens"),
    "min-p above 1": (["the", "--min-p", "2"], "min_p is 2.0; expected between 0 and 1"),
    "penalty of 0": (["the", "--repetition-penalty", "0"], "repetition_penalty is 0.0; expected more than 0"),
    "no beam": (["the", "--num-beams", "0"], "num_beams is 0"),
    "negative length": (["the", "--max-new-tokens", "-1"], "max_new_tokens is -1; expected a whole number of at least 0"),
    "unknown sampling preset": (["the", "--preset", "wild"], "there is no sampling preset 'wild'; there are precise, balanced"),
    "a prompt with no tokens": ([""], "a prompt has no tokens: give some text to go on from"),
    "one of several without tokens": (["the", ""], "a prompt has no tokens"),
    "characters it never saw": (["ÜBER"], "the character(s) 'B', 'E', 'R', 'Ü' are not among"),
    "the same, compared": (["ÜBER", "--compare"], "the character(s) 'B', 'E', 'R', 'Ü' are not among"),
    "missing model": (["the", "--model", "nowhere"], "there is no file or folder nowhere, and no run or model of that name"),
    "a folder that is no run": (
        ["the", "--model", "notes"],
        "notes holds no config.json, so it is no model; expected a run or a checkpoint",
    ),
    "a text for a model": (["the", "--model", "play.txt"], "play.txt is something else; expected a run or a checkpoint"),
    "unknown shape": (["the", "--random", "gtp2"], "there is no model preset 'gtp2'; there are gpt2"),
    "unknown device": (["the", "--device", "abacus"], "'abacus' is not a device"),
    "two models": (["the", "--random", "gpt2", "--model", "play"], "--random and --model do not go together: one has untrained"),
    "several prompts compared": (["the", "a", "--compare"], "--compare takes one prompt, and there are 2"),
    "sampling compared": (["the", "--compare", "--top-k", "3"], "--compare and --top-k do not go together: it goes through all"),
    "a preset compared": (["the", "--compare", "--preset", "creative"], "--compare and --preset do not go together"),
    "beams compared": (["the", "--compare", "--num-beams", "2"], "--compare and --num-beams do not go together"),
    "JSON of what is typed": (["--interactive", "--json"], "--json and --interactive do not go together: what is typed"),
    "a prompt given and asked for": (["the", "--interactive"], "--interactive and PROMPT do not go together: prompts are asked"),
    "comparing what is typed": (["--interactive", "--compare"], "--interactive and --compare do not go together"),
    "beams for what is typed": (["--interactive", "--num-beams", "2"], "--interactive and --num-beams do not go together"),
    "several prompts compiled": (["the", "a", "--compile"], "--compile takes one prompt, and there are 2"),
    "beams that sample": (["the", "--num-beams", "2", "--top-k", "3"], "--num-beams and --top-k do not go together: beam search"),
    "beams with a seed": (["the", "--num-beams", "2", "--seed", "3"], "--num-beams and --seed do not go together"),
    "beams with a preset": (["the", "--num-beams", "2", "--preset", "precise"], "--num-beams and --preset do not go together"),
    "beams compiled": (["the", "--num-beams", "2", "--compile"], "--num-beams and --compile do not go together"),
    "a length penalty that is no number": (
        ["the", "--num-beams", "2", "--length-penalty", "nan"],
        "length_penalty is nan; expected",
    ),
    "a length penalty without beams": (["the", "--length-penalty", "2"], "--length-penalty is for beam search: give --num-beams"),
}


@pytest.mark.parametrize(("arguments", "sentence"), GENERATE.values(), ids=GENERATE)
def test_generate(cutaway, folder, arguments, sentence):
    before = hashes(folder / "runs")
    code, out, err = cutaway("generate", *arguments)
    says_one_sentence((code, out, err.removeprefix(f"{folder}/runs/play\n\n")), sentence)
    assert hashes(folder / "runs") == before


def seal(checkpoint):
    """Record the hashes of the files as they are, so that damage is found by what is in them."""
    state = json.loads((checkpoint / "state.json").read_text())
    del state["sha256"]
    found = {**hashes(checkpoint), "state.json": values_sha256(state)}
    (checkpoint / "state.json").write_text(json.dumps({**state, "sha256": found}))


def flip_a_bit(checkpoint):
    file = checkpoint / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-9] ^= 4
    file.write_bytes(content)


def change_tensors(checkpoint, change):
    """Write other tensors, with hashes that fit them."""
    tensors = load_file(checkpoint / "model.safetensors")
    change(tensors)
    save_file(tensors, checkpoint / "model.safetensors")
    seal(checkpoint)


def lose_a_tensor(checkpoint):
    change_tensors(checkpoint, lambda tensors: tensors.pop("blocks.0.attn.W_Q.weight"))


def add_a_tensor(checkpoint):
    change_tensors(checkpoint, lambda tensors: tensors.update({"blocks.1.attn.W_Q.weight": torch.zeros(16, 16)}))


def shrink_a_tensor(checkpoint):
    change_tensors(checkpoint, lambda tensors: tensors.update({"blocks.0.attn.W_Q.weight": torch.zeros(16, 8)}))


def cut_the_file(checkpoint):
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    seal(checkpoint)


def empty_the_file(checkpoint):
    (checkpoint / "model.safetensors").write_bytes(b"")


def use_another_configuration(checkpoint):
    values = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**values, "d_model": 32, "d_head": 16, "d_mlp": 128}))
    seal(checkpoint)


def break_the_configuration(checkpoint):
    (checkpoint / "config.json").write_text('{"d_model": 16,')
    seal(checkpoint)


def lose_the_tokenizer(checkpoint):
    (checkpoint.parent.parent / "tokenizer.json").unlink()


def lose_the_state(checkpoint):
    (checkpoint / "state.json").unlink()


def spoil_the_hashes(checkpoint):
    state = json.loads((checkpoint / "state.json").read_text())
    (checkpoint / "state.json").write_text(json.dumps({**state, "sha256": [1]}))


def lose_the_configuration(checkpoint):
    (checkpoint / "config.json").unlink()


def lose_every_checkpoint(checkpoint):
    shutil.rmtree(checkpoint.parent)


DAMAGES = {
    flip_a_bit: "step-000012/model.safetensors is damaged (its sha256 is not the one recorded when it was written)",
    lose_a_tensor: "lacks blocks.0.attn.W_Q.weight, which the configuration asks for",
    add_a_tensor: "holds blocks.1.attn.W_Q.weight, which the configuration does not know",
    shrink_a_tensor: "blocks.0.attn.W_Q.weight has shape [16, 8]; the configuration expects [16, 16]",
    cut_the_file: "step-000012/model.safetensors is damaged",
    empty_the_file: "step-000012/model.safetensors is damaged",
    use_another_configuration: "the configuration expects",
    break_the_configuration: "step-000012/config.json",
    lose_the_tokenizer: "runs/play has lost its tokenizer.json: bring it back",
    lose_the_state: "step-000012/state.json is missing: use another checkpoint, or remove step-000012",
    spoil_the_hashes: "step-000012/state.json is damaged",
    lose_the_configuration: "step-000012/config.json is missing: use another checkpoint, or remove step-000012",
    lose_every_checkpoint: "runs/play has no checkpoint yet: go on with it by `cutaway train --resume",
}


@pytest.mark.parametrize(("damage", "sentence"), DAMAGES.items(), ids=[each.__name__ for each in DAMAGES])
def test_a_damaged_run(cutaway, folder, damage, sentence):
    damage(folder / "runs/play/checkpoints/step-000012")
    before = hashes(folder / "runs")
    says_one_sentence(cutaway("generate", "the", "--model", "runs/play"), sentence)
    assert hashes(folder / "runs") == before


RESUMABLE = {lose_every_checkpoint}
OTHERWISE = {
    use_another_configuration: "step-000012 belongs to another configuration: it has d_model 32 (not 16)",
    lose_a_tensor: "step-000012",
    lose_the_tokenizer: "play has lost its tokenizer.json: bring it back",
    lose_the_configuration: "step-000012/config.json is missing: use another checkpoint, or remove step-000012",
}


@pytest.mark.parametrize("damage", [each for each in DAMAGES if each not in RESUMABLE], ids=lambda each: each.__name__)
def test_a_damaged_run_is_not_resumed(cutaway, folder, damage):
    damage(folder / "runs/play/checkpoints/step-000012")
    before = hashes(folder / "runs")
    says_one_sentence(cutaway("train", "play", "--resume"), OTHERWISE.get(damage, ""))
    assert hashes(folder / "runs") == before


SETTINGS = {
    "learning_rate": ("x", "config.json: learning_rate is 'x'; expected a number"),
    "watch": (5, "config.json: watch is 5; expected a list of texts"),
    "batch_size": (2.5, "config.json: batch_size is 2.5; expected a whole number"),
    "save_every": (1.5, "config.json: save_every is 1.5; expected a whole number"),
    "validate_every": (None, "config.json: validate_every is None; expected a whole number"),
    "data": (5, "config.json: data is 5; expected a text"),
    "compile": ("no", "config.json: compile is 'no'; expected True or False"),
    "n_window": ("16", "config.json: n_window is '16'; expected a whole number or None"),
    "dtype": (16, "config.json: dtype is 16; expected one of auto, float32, bfloat16"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_another_type(cutaway, folder, name):
    file, (value, sentence) = folder / "runs/play/config.json", SETTINGS[name]
    values = json.loads(file.read_text())
    values["train"][name] = value
    file.write_text(json.dumps(values))
    says_one_sentence(cutaway("train", "play", "--resume"), sentence)
    assert cutaway("inspect", "play")[0] == 0


@pytest.mark.parametrize("part", ["data", "tokenizer"])
@pytest.mark.parametrize(
    "verb", [["train", "--resume", "play"], ["inspect", "play"], ["evaluate", "play", "--limit", "2"]], ids=str
)
def test_a_manifest_of_another_form(cutaway, folder, verb, part):
    file = folder / "runs/play/manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), part: [5]}))
    says_one_sentence(cutaway(*verb), f"play/manifest.json: {part} is [5]; expected a JSON object: bring it back")


def test_a_manifest_that_says_odd_things_is_shown(cutaway, folder):
    (folder / "runs/play/manifest.json").write_text('{"started": "once", "tokenizer": {"kind": 5, "d_vocab": "many"}}')
    code, out, _ = cutaway("inspect", "play")
    assert code == 0
    assert "(many" in out


def test_going_on_from_the_checkpoint_before_works_as_it_says(cutaway, folder):
    flip_a_bit(folder / "runs/play/checkpoints/step-000012")
    assert "or remove step-000012 to go on from the one before" in cutaway("train", "--resume")[2]
    assert cutaway("generate", "the", "--model", "runs/play/checkpoints/step-000009", "--max-new-tokens", "3")[0] == 0
    shutil.rmtree(folder / "runs/play/checkpoints/step-000012")
    assert cutaway("train", "--resume")[0] == 0
    assert (Path("runs/play/checkpoints/step-000012") / "model.safetensors").is_file()


def test_a_folder_that_cannot_be_written_is_code_1(cutaway, folder, monkeypatch):
    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)  # who runs the tests may be root, whom no permission stops
    code, out, err = cutaway("train", "--data", "play.txt", *OPTIONS, "--out", "locked")
    assert (code, out) == (1, "")
    assert err.endswith(": permission denied\n")
    assert err.count("\n") == 1


def test_tensorboard_that_is_not_installed(cutaway, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    before = hashes(folder / "runs")
    said = cutaway("train", "--data", "play.txt", *OPTIONS, "--tensorboard")
    says_one_sentence(said, "tensorboard is not installed: pip install 'cutaway[tensorboard]'")
    assert hashes(folder / "runs") == before
