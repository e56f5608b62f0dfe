"""Hugging Face folders that are damaged, hostile, quantised or incomplete are refused in one sentence, and nothing of them is run."""

import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cutaway.weights.hugging_face import HuggingFaceFolder
from cutaway.weights.source import read_model
from hugging_face_models import add_tensors, make_theirs, saved

pytest.importorskip("transformers", reason="transformers, which makes the folders here, is not installed")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_weights_that_are_quantised(folder: Path, dtype: torch.dtype) -> None:
    weight = load_file(folder / "model.safetensors")["transformer.h.1.mlp.c_fc.weight"]
    add_tensors(folder, {"transformer.h.1.mlp.c_fc.weight": weight.to(dtype)})
    assert "transformer.h.1.mlp.c_fc.weight is of type " in refused(folder)


class Bomb:
    """A pickle of it would make a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def refused(folder: Path) -> str:
    """Return the sentence with which a folder is refused."""
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        read_model(HuggingFaceFolder(folder))
    assert str(folder) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("size", [0, 7, 100, -1, -500])
def test_weights_that_were_cut_short(folder: Path, size: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    assert f"{path} is damaged, or no safetensors file" in refused(folder)


def test_weights_with_any_byte_of_their_header_changed(folder: Path) -> None:
    path = folder / "model.safetensors"
    content, choices = path.read_bytes(), random.Random(0)
    n_header = 8 + int.from_bytes(content[:8], "little")
    n_refused = 0
    for _ in range(150):
        place = choices.randrange(n_header)
        path.write_bytes(content[:place] + bytes([choices.randrange(256)]) + content[place + 1 :])
        try:
            read_model(HuggingFaceFolder(folder))  # some bytes do not matter: blanks, or a digit in its own place
        except ValueError as error:
            n_refused += str(folder) in str(error)
    assert n_refused > 100


@pytest.mark.parametrize("write", [pickle.dump, torch.save])
def test_a_pickle_that_pretends(folder: Path, tmp_path: Path, write: Callable[..., None]) -> None:
    with (folder / "model.safetensors").open("wb") as file:
        write(Bomb(tmp_path / "exploded"), file)
    assert "model.safetensors is damaged, or no safetensors file" in refused(folder)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin"])
def test_a_folder_with_a_pickle_alone(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    with (folder / name).open("wb") as file:
        pickle.dump(Bomb(tmp_path / "exploded"), file)
    assert f"as {name} alone, a pickle, which can run code when it is read; get the same model" in refused(folder)
    assert not (tmp_path / "exploded").exists()


def test_files_that_are_missing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "holds neither model.safetensors nor model.safetensors.index.json" in refused(folder)
    (folder / "config.json").unlink()
    assert "holds no config.json, so it is no Hugging Face folder" in refused(folder)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is not JSON in UTF-8"),
        (b'{"model_type": "gpt2"', "is not JSON in UTF-8"),
        (b"\xff\xfe\x00", "is not JSON in UTF-8"),
        (b"[" * 100_000, "is not JSON in UTF-8"),
        (b"[1]", "holds [1]; expected a JSON object"),
        (b"null", "holds None; expected"),
        (b"{}", "is not supported; supported are"),
        (b'{"model_type": "gpt2"}', "lacks vocab_size"),
        (b'{"model_type": "mamba", "architectures": ["MambaForCausalLM"]}', "'MambaForCausalLM'"),
    ],
    ids=["empty", "half", "no text", "deep", "a list", "null", "nothing", "no sizes", "another architecture"],
)
def test_a_configuration_that_is_none(folder: Path, content: bytes, sentence: str) -> None:
    (folder / "config.json").write_bytes(content)
    message = refused(folder)
    assert sentence in message
    assert str(folder / "config.json") in message


def test_a_configuration_of_another_shape(folder: Path) -> None:
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "n_layer": 4}))
    assert "transformer.h.3.ln_1.weight (blocks.3.ln1.weight) and 11 more is missing" in refused(folder)
    path.write_text(json.dumps({**settings, "vocab_size": 38}))
    assert "transformer.wte.weight (embed.W_E) has shape [37, 15]; the configuration expects [38, 15]" in refused(folder)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A GPT-2 in several files."""
    return saved(make_theirs("gpt2"), tmp_path / "sharded", max_shard_size=9000)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda index, names: {"weight_map": index["weight_map"] | {names[0]: "model-9.safetensors"}}, "which is not there"),
        (
            lambda index, names: {"weight_map": index["weight_map"] | {names[0]: "../x.safetensors"}},
            "a safetensors file of the same",
        ),
        (lambda index, names: {"weight_map": index["weight_map"] | {names[0]: "config.json"}}, "a safetensors file of the same"),
        (lambda index, names: {"weight_map": index["weight_map"] | {names[0]: 5}}, "puts lm_head.weight in 5; expected"),
        (
            lambda index, names: {"weight_map": index["weight_map"] | {"stray": next(iter(index["weight_map"].values()))}},
            "lacks stray",
        ),
        (lambda index, names: {"weight_map": []}, "has no weight_map"),
        (lambda index, names: {}, "has no weight_map"),
        (lambda index, names: [], "holds []; expected a JSON object"),
    ],
)
def test_an_index_that_is_wrong(sharded: Path, change: Callable[..., Any], sentence: str) -> None:
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps(change(index, ["lm_head.weight", *index["weight_map"]])))
    assert sentence in refused(sharded)


def test_a_shard_that_is_missing_or_twice(sharded: Path) -> None:
    first, second = sorted(sharded.glob("*.safetensors"))[:2]
    shared = next(iter(load_file(first)))
    save_file({**load_file(second), shared: load_file(first)[shared]}, second)
    assert f"{shared} is in" in refused(sharded)
    second.unlink()
    assert f"in {second.name}, which is not there; get the missing file" in refused(sharded)
