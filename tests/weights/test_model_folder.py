"""A model as a folder: what is saved is what is loaded, and what does not fit is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.model import Transformer
from cutaway.weights import load_model, matching, read_config, save_model, stream_tensors

MakeModel = Callable[..., Transformer]


@pytest.fixture
def folder(tiny_model: Transformer, tmp_path: Path) -> Path:
    """A saved tiny GPT-2."""
    save_model(tiny_model, tmp_path / "model")
    return tmp_path / "model"


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_every_shape_comes_back_bit_for_bit(variant: ModelConfig, make_model: MakeModel, tokens: Tensor, tmp_path: Path) -> None:
    model = make_model(variant)
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert again.config == variant
    ours, theirs = dict(model.named_parameters()), dict(again.named_parameters())
    assert ours.keys() == theirs.keys()  # a tied weight counts once in both
    for name, weight in ours.items():
        assert torch.equal(weight, theirs[name])
        assert theirs[name].requires_grad
    assert torch.equal(model(tokens), again(tokens))


def test_tied_weights_stay_tied_and_are_written_once(folder: Path, tiny_model: Transformer, tokens: Tensor) -> None:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        names = set(file.keys())
    assert names == {name for name, _ in tiny_model.named_parameters()}
    assert "unembed.W_U.weight" not in names
    for dtype in (None, torch.float32):
        again = load_model(folder, dtype=dtype)
        assert again.unembed.W_U.weight is again.embed.W_E
        again(tokens).sum().backward()
        assert again.embed.W_E.grad is again.unembed.W_U.weight.grad


def test_untied_weights_are_both_written(make_model: MakeModel, tiny_config: ModelConfig, tmp_path: Path) -> None:
    save_model(make_model(tiny_config.replace(tie_embeddings=False)), tmp_path)
    again = load_model(tmp_path)
    assert "unembed.W_U.weight" in load_file(tmp_path / "model.safetensors")
    assert again.unembed.W_U.weight is not again.embed.W_E
    assert not torch.equal(again.unembed.W_U.weight, again.embed.W_E)


def test_the_folder_holds_two_files_in_our_names(folder: Path, tiny_config: ModelConfig) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((folder / "config.json").read_text()) == tiny_config.to_dict()
    assert "blocks.0.attn.W_Q.weight" in load_file(folder / "model.safetensors")


def test_the_dtype_is_the_files_unless_another_is_given(folder: Path) -> None:
    assert {weight.dtype for weight in load_model(folder).parameters()} == {torch.float64}
    assert {weight.dtype for weight in load_model(folder, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}
    change_tensors(folder, lambda tensors: tensors.update({name: tensor.bfloat16() for name, tensor in tensors.items()}))
    assert {weight.dtype for weight in load_model(folder).parameters()} == {torch.bfloat16}


def test_the_device(folder: Path) -> None:
    assert {weight.device.type for weight in load_model(folder, device="cpu").parameters()} == {"cpu"}
    assert {weight.device.type for weight in load_model(folder, device="meta").parameters()} == {"meta"}


def test_loading_draws_nothing(folder: Path) -> None:
    before = torch.get_rng_state()
    load_model(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_loaded_does_not_depend_on_the_file_any_more(folder: Path, tiny_model: Transformer, tokens: Tensor) -> None:
    again = load_model(folder)
    content = (folder / "model.safetensors").read_bytes()
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(bytes(len(content)))
    assert torch.equal(again(tokens), tiny_model(tokens))


def test_saving_again_replaces(folder: Path, make_model: MakeModel, tiny_config: ModelConfig) -> None:
    other = make_model(tiny_config.replace(n_layers=1), seed=9)
    save_model(other, folder)
    again = load_model(folder)
    assert again.config.n_layers == 1
    assert torch.equal(again.embed.W_E, other.embed.W_E)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.pop("blocks.1.mlp.W_in.bias"), r"lacks blocks\.1\.mlp\.W_in\.bias, which the configuration asks"),
        (
            lambda t: [t.pop(n) for n in sorted(t) if n.startswith("blocks.0.attn")],
            r"lacks blocks\.0\.attn\.W_K\.bias, .* and 5 more",
        ),
        (lambda t: t.update(stray=torch.zeros(2)), "holds stray, which the configuration does not know"),
        (
            lambda t: t.update({f"stray.{i}": torch.zeros(i) for i in range(5)}),
            r"holds stray\.0, stray\.1, stray\.2 and 2 more, which",
        ),
        (lambda t: t.update({"unembed.W_U.weight": torch.zeros(31, 16)}), r"holds unembed\.W_U\.weight, which"),
        (
            lambda t: t.update({"blocks.0.attn.W_O.weight": torch.zeros(16, 8)}),
            r"blocks\.0\.attn\.W_O\.weight has shape \[16, 8\]; the configuration expects \[16, 16\]",
        ),
        (lambda t: t.update({"embed.W_E": torch.zeros(16, 31)}), r"embed\.W_E has shape \[16, 31\].* expects \[31, 16\]"),
    ],
    ids=["missing", "many missing", "extra", "many extra", "a second embedding", "wrong shape", "transposed"],
)
def test_tensors_that_do_not_fit(folder: Path, change: Callable[[dict[str, Tensor]], object], sentence: str) -> None:
    change_tensors(folder, change)
    with pytest.raises(ValueError, match=sentence) as caught:
        load_model(folder)
    assert str(folder / "model.safetensors") in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"d_model": 32}, r"has shape .*; the configuration expects"),
        ({"n_layers": 3}, r"lacks blocks\.2\."),
        ({"n_layers": 1}, r"holds blocks\.1\."),
        ({"tie_embeddings": False}, r"lacks unembed\.W_U\.weight"),
        ({"position": "none"}, r"holds embed\.pos_embed\.W_pos"),
        ({"mlp_bias": False}, r"holds blocks\.0\.mlp\.W_in\.bias"),
        ({"n_kv_heads": 2}, r"blocks\.0\.attn\.W_K\.weight has shape \[16, 16\]; the configuration expects \[8, 16\]"),
    ],
)
def test_a_configuration_of_another_shape(folder: Path, tiny_config: ModelConfig, changes: dict[str, Any], sentence: str) -> None:
    (folder / "config.json").write_text(json.dumps(tiny_config.replace(**changes).to_dict()))
    with pytest.raises(ValueError, match=sentence):
        load_model(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_is_missing(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"holds no {name}, so it is no saved model"):
        load_model(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"d_vocab": 5}', b'{"stray": 1}'],
    ids=["empty", "half", "a list", "null", "no text", "fields missing", "fields unknown"],
)
def test_a_configuration_that_is_damaged(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json"):
        load_model(folder)


@pytest.mark.parametrize("field", ["d_vocab", "dropout", "rotary_dim", "norm"])
def test_a_configuration_with_values_of_a_wrong_kind(folder: Path, tiny_config: ModelConfig, field: str) -> None:
    values = tiny_config.to_dict() | {"position": "rotary", "rotary_dim": 2, field: "many"}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"config\.json"):
        read_config(folder / "config.json")


@pytest.mark.parametrize("size", [0, 7, 100, -1, -500])
def test_weights_that_were_cut_short(folder: Path, size: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        dict(stream_tensors(path))


def test_what_fits_comes_through_as_it_is() -> None:
    tensors = [("a", torch.zeros(2, 3)), ("b", torch.zeros(()))]
    shapes = {name: tensor.shape for name, tensor in tensors}
    assert list(matching(tensors, shapes, source="here")) == tensors
    with pytest.raises(ValueError, match="here holds a, which the configuration does not know"):  # a second time
        list(matching([*tensors, tensors[0]], shapes, source="here"))
