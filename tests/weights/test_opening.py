"""What a file is, is told by looking: each format goes to its reader, and of anything else nothing is run."""

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import cutaway.weights.opening
from cutaway import assets
from cutaway.config import ModelConfig
from cutaway.runs import Checkpoint, Run, values_sha256
from cutaway.runtime import file_sha256
from cutaway.weights.foreign import read_checkpoint
from cutaway.weights.nanogpt import NanoGPTCheckpoint
from cutaway.weights.opening import open_model, resolve
from cutaway.weights.saved import SavedModel
from cutaway.weights.transformer_lens import TransformerLensState
from run_directories import make_run

TINY = ModelConfig(d_vocab=5, n_ctx=3, n_layers=0, n_heads=1, d_model=2, norm="none", tie_embeddings=False)

ARGS = {"n_layer": 0, "n_head": 1, "n_embd": 2, "block_size": 3, "bias": False, "vocab_size": 5}


def transformer_lens_state() -> dict[str, Tensor]:
    state = {"embed.W_E": torch.ones(5, 2), "pos_embed.W_pos": torch.ones(3, 2), "unembed.W_U": torch.ones(2, 5)}
    return state | {"unembed.b_U": torch.zeros(5)}


def nanogpt_content() -> dict[str, Any]:
    state = {"transformer.wte.weight": torch.ones(5, 2), "transformer.wpe.weight": torch.ones(3, 2)}
    return {"model": state | {"transformer.ln_f.weight": torch.ones(2)}, "model_args": ARGS}


class Creator:
    """Creates a folder when it is read by a pickle that runs what it is told."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def assert_refused(path: Path, sentence: str, *, config: ModelConfig | None = None) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        open_model(path, config=config)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["ckpt.pt", "ckpt.pth", "checkpoint"])
def test_nanogpt(tmp_path: Path, name: str) -> None:
    torch.save(nanogpt_content(), tmp_path / name)
    source = open_model(str(tmp_path / name))
    assert isinstance(source, NanoGPTCheckpoint)
    assert source.config.d_vocab == 5


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "model"])
def test_transformer_lens(tmp_path: Path, name: str) -> None:
    save = save_file if name.endswith("safetensors") else torch.save
    save(transformer_lens_state(), tmp_path / name)
    source = open_model(tmp_path / name, config=TINY)
    assert isinstance(source, TransformerLensState)
    assert source.config == TINY


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_a_transformer_lens_state_needs_its_shape(tmp_path: Path, name: str) -> None:
    save = save_file if name.endswith("safetensors") else torch.save
    save(transformer_lens_state(), tmp_path / name)
    assert_refused(
        tmp_path / name,
        r"is a TransformerLens state, which does not hold .*: give it by --config FILE, .* or in Python by config=ModelConfig",
    )


class Reader:
    """Stands for a reader whose own test is elsewhere."""

    kind = "file of its own kind"

    def __init__(self, path: Path) -> None:
        self.path = path


def test_a_gguf_file_is_known_by_its_first_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_type_checks: None
) -> None:
    monkeypatch.setattr(cutaway.weights.opening, "GGUFFile", Reader)
    for name in ("model.gguf", "model.bin"):
        (tmp_path / name).write_bytes(b"GGUF" + bytes(20))
        assert isinstance(open_model(tmp_path / name), Reader)


def test_a_folder_is_known_by_its_model_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_type_checks: None) -> None:
    monkeypatch.setattr(cutaway.weights.opening, "HuggingFaceFolder", Reader)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert isinstance(open_model(tmp_path), Reader)
    assert_refused(
        tmp_path, "is a file of its own kind, which holds its own configuration: leave out --config, in Python config=", config=TINY
    )


def test_nanogpt_holds_its_own_configuration(tmp_path: Path) -> None:
    torch.save(nanogpt_content(), tmp_path / "ckpt.pt")
    assert_refused(tmp_path / "ckpt.pt", "nanoGPT checkpoint, which holds its own configuration: leave out --config", config=TINY)


def test_a_name_is_a_path_or_else_a_run_or_else_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTAWAY_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    assert resolve("gpt2") == assets.CATALOGUE["gpt2"]
    run = make_run(tmp_path / "runs" / "gpt2")
    step = run / "checkpoints" / "step-000050"
    assert resolve("gpt2") == resolve(run) == Run(run)
    for source in ("gpt2/checkpoints/step-000050", step, step / "model.safetensors"):
        assert resolve(source) == Checkpoint(step, 50)
    source = open_model("gpt2")
    assert isinstance(source, SavedModel)
    assert source.path.name == "step-000100"
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "config.json").write_text('{"model_type": "gpt2"}')
    assert resolve("gpt2") == Path("gpt2")
    torch.save(nanogpt_content(), tmp_path / "ckpt.pt")
    assert resolve("ckpt.pt") == Path("ckpt.pt")


@pytest.mark.parametrize("name", ["absent", "gpt2-vocab"])
def test_what_no_name_stands_for(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTAWAY_RUNS", str(tmp_path))
    make_run(tmp_path / "tiny")
    with pytest.raises(FileNotFoundError, match=f"no file or folder {name}, .* the models are smollm2-135m, .*, the runs tiny$"):
        resolve(name)
    with pytest.raises(FileNotFoundError, match="and no run or model of that name; did you mean 'smollm2-135m'"):
        resolve("smolm2")


def test_only_what_is_read_of_a_checkpoint_has_to_be_whole(tmp_path: Path) -> None:
    path = make_run(tmp_path / "tiny") / "checkpoints" / "step-000100"
    recorded = {file.name: file_sha256(file) for file in path.iterdir()}
    state = {"step": 100}
    recorded |= {"optimizer.safetensors": "0" * 64, "state.json": values_sha256(state)}
    (path / "state.json").write_text(json.dumps({**state, "sha256": recorded}))
    source = open_model(path)
    assert [name for name, _ in source.tensors()] == ["embed.W_E"]  # where nobody has the optimizer's averages
    (path / "optimizer.safetensors").write_bytes(b"others")
    assert [name for name, _ in source.tensors()] == ["embed.W_E"]
    (path / "config.json").write_text((path / "config.json").read_text() + " ")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        list(source.tensors())


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file or folder .*absent\.pt, and no run or model of that name"):
        open_model(tmp_path / "absent.pt")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, r"holds no config\.json, so it is no model; expected a run or a checkpoint, a folder with the config\.json"),
        ("{", r"config\.json is not JSON"),
        ("[]", r"config\.json holds \[\]; expected a JSON object"),
        ("{}", r"config\.json is neither cutaway's nor, without a model_type, Hugging Face's; expected"),
        (json.dumps(TINY.to_dict()), r"is no checkpoint: it has no model\.safetensors"),
    ],
)
def test_folders_of_another_kind(tmp_path: Path, content: str | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert_refused(tmp_path, sentence)


def test_folders_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe")
    assert_refused(tmp_path, r"config\.json is not JSON")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors", ".gguf", ".bin", ""])
def test_a_pickle_is_not_run_whatever_it_is_called(tmp_path: Path, suffix: str) -> None:
    path, mark = tmp_path / f"model{suffix}", tmp_path / "mark"
    path.write_bytes(pickle.dumps(Creator(mark)))
    expected = {
        ".pt": "not a file that torch.save has written",
        ".pth": "not a file that",
        "": "is something else",
        ".bin": "is something",
    }
    assert_refused(path, expected.get(suffix, rf"is called \{suffix} and is something else; expected a run"))
    assert not mark.exists()
    with pytest.raises(ValueError, match="nothing of it was run"):
        read_checkpoint(path)
    assert not mark.exists()
    pickle.loads(path.read_bytes())
    assert mark.exists()  # so that it would have shown


@pytest.mark.parametrize("suffix", [".pt", ".pth", ""])
def test_objects_in_a_checkpoint_are_not_made(tmp_path: Path, suffix: str) -> None:
    path, mark = tmp_path / f"model{suffix}", tmp_path / "mark"
    torch.save(nanogpt_content() | {"config": Creator(mark)}, path)
    assert_refused(path, r"holds more than tensors and plain values \(it asks for \w+\.mkdir\); nothing of it was run")
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize("named", [".safetensors", ".gguf"])
def test_a_checkpoint_called_something_else(tmp_path: Path, named: str) -> None:
    torch.save(nanogpt_content(), tmp_path / f"model{named}")
    assert_refused(tmp_path / f"model{named}", rf"is called \{named} and is a file of torch.save; expected")


def test_a_checkpoint_of_old_torch(tmp_path: Path) -> None:
    torch.save(nanogpt_content(), tmp_path / "ckpt.pt", _use_new_zipfile_serialization=False)
    assert_refused(tmp_path / "ckpt.pt", "since torch 1.6: if you trust it, read it with torch.load and save it again")


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("text.txt", "no checkpoint")


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (lambda path: path.touch(), "not a file that torch.save has written"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(50)), "is damaged or holds more than"),
        (write_zip, "is damaged or holds more than"),
        (lambda path: torch.save(nn.Linear(2, 2), path), r"it asks for torch\.nn\.modules\.linear\.Linear"),
        (lambda path: torch.save(torch.ones(3), path), "holds a Tensor; expected a dictionary"),
        (lambda path: torch.save([1, 2], path), "holds a list; expected a dictionary"),
        (lambda path: torch.save({}, path), "holds nothing: neither nanoGPT's model_args nor TransformerLens's embed.W_E"),
        (lambda path: torch.save({"b": 1, "a": 2, 3: 4, "d": 5}, path), "holds 3, a, b: neither"),
        (lambda path: torch.save({"model_args": ARGS}, path), "lacks 'model' and 'model_args'"),
    ],
)
def test_a_pt_file_that_is_no_model(tmp_path: Path, write: Callable[[Path], object], sentence: str) -> None:
    write(tmp_path / "model.pt")
    assert_refused(tmp_path / "model.pt", sentence)


def test_safetensors_in_other_names(tmp_path: Path) -> None:
    save_file({"transformer.wte.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    assert_refused(
        tmp_path / "model.safetensors", "holds transformer.wte.weight: neither .*; to open a Hugging Face model, give its folder"
    )


@pytest.mark.parametrize("size", [9, 40, -1])
def test_safetensors_cut_short(tmp_path: Path, size: int) -> None:
    path = tmp_path / "model.safetensors"
    save_file(transformer_lens_state(), path)
    path.write_bytes(path.read_bytes()[:size])
    assert_refused(path, "is neither a safetensors file", config=TINY)


def test_every_cut_of_a_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    torch.save(nanogpt_content(), path)
    content = path.read_bytes()
    for size in range(0, len(content), 97):
        path.write_bytes(content[:size])
        assert_refused(path, "not a file that torch.save|is damaged or holds")


def test_altered_checkpoints_open_or_are_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    torch.save(nanogpt_content(), path)
    content = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    n_refused = 0
    for _ in range(300):
        altered = bytearray(content)
        altered[int(torch.randint(len(content), (), generator=generator))] ^= 1 << int(torch.randint(8, (), generator=generator))
        path.write_bytes(altered)
        try:
            list(open_model(path).tensors())
        except ValueError as error:
            n_refused += 1
            assert "\n" not in str(error)  # noqa: PT017
    assert n_refused > 10
