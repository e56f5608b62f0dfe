"""Dictionaries on disk: what we write comes back bit for bit, what SAELens writes is computed as it says."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from cutaway import sae

SHAPES = {
    "relu": {"kind": "relu"},
    "topk": {"kind": "topk", "k": 3},
    "batchtopk": {"kind": "batchtopk", "k": 3},
    "jumprelu": {"kind": "jumprelu"},
    "of heads": {"kind": "jumprelu", "name": "blocks.3.attn.z"},
    "transcoder": {"kind": "relu", "name": "blocks.3.ln2.normalized", "target": "blocks.3.mlp_out", "d_out": 4},
    "skip": {"kind": "topk", "k": 2, "name": "blocks.3.resid_mid", "target": "blocks.3.mlp_out", "d_out": 4, "has_skip": True},
    "jumprelu skip": {"kind": "jumprelu", "name": "blocks.3.resid_mid", "target": "blocks.3.mlp_out", "d_out": 4, "has_skip": True},
    "crosscoder": {"kind": "batchtopk", "k": 3, "n_models": 2},
}
ARCHITECTURES = {
    "relu": "standard",
    "topk": "topk",
    "batchtopk": "jumprelu",
    "jumprelu": "jumprelu",
    "of heads": "jumprelu",
    "transcoder": "transcoder",
    "skip": "cutaway_topk_skip_transcoder",
    "jumprelu skip": "jumprelu_skip_transcoder",
    "crosscoder": "cutaway_crosscoder",
}


def make(shape, *, dtype=torch.float32):
    config = sae.DictionaryConfig(
        **{"d_in": 6, "d_sae": 10, "name": "blocks.3.resid_post", "model_sha256": "ab" * 32, **SHAPES[shape]}
    )
    made = sae.make_dictionary(config, generator=torch.Generator().manual_seed(0)).to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in made.state_dict().values():
            tensor += 0.3 * torch.rand(tensor.shape, generator=generator)
    return made.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_written_comes_back_bit_for_bit(shape, dtype, tmp_path):
    made = make(shape, dtype=dtype)
    folder = sae.save_dictionary(made, tmp_path / "sae")
    again = sae.load_dictionary(folder)
    assert type(again) is type(made)
    assert again.config == made.config
    for name, tensor in made.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
        assert again.state_dict()[name].dtype is dtype
    assert not any(weight.requires_grad for weight in again.parameters())
    first = {file.name: file.read_bytes() for file in folder.iterdir()}
    sae.save_dictionary(again, tmp_path / "twice")
    assert {file.name: file.read_bytes() for file in (tmp_path / "twice").iterdir()} == first


@pytest.mark.parametrize("shape", SHAPES)
def test_the_files_are_those_of_sae_lens(shape, tmp_path):
    sae.save_dictionary(make(shape), tmp_path / "sae")
    about = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    tensors = load_file(tmp_path / "sae" / "sae_weights.safetensors")
    assert about["architecture"] == ARCHITECTURES[shape]
    assert (about["d_in"], about["d_sae"], about["dtype"]) == (6, 10, "float32")
    assert about["normalize_activations"] == "none"
    assert about["reshape_activations"] == ("hook_z" if shape == "of heads" else "none")
    assert about.get("k") == {"topk": 3, "skip": 2}.get(shape)
    assert about["apply_b_dec_to_input"] is ("target" not in SHAPES[shape])
    expected = {"of heads": "blocks.3.attn.hook_z", "transcoder": "blocks.3.ln2.hook_normalized"}
    expected |= {"skip": "blocks.3.hook_resid_mid", "jumprelu skip": "blocks.3.hook_resid_mid"}
    assert about["metadata"]["hook_name"] == expected.get(shape, "blocks.3.hook_resid_post")
    assert tensors["W_enc"].shape == (6, 10)
    assert tensors["W_dec"].shape == (10, about.get("d_out", 6))
    assert tensors.keys() >= {"W_enc", "b_enc", "W_dec", "b_dec"}
    assert ("threshold" in tensors) == (ARCHITECTURES[shape].startswith("jumprelu") or shape == "crosscoder")


def write(folder, about, tensors):
    folder.mkdir()
    (folder / "cfg.json").write_text(json.dumps(about))
    save_file(tensors, folder / "sae_weights.safetensors")
    return folder


def weights(d_in=6, d_sae=10, d_out=6, **more):
    generator = torch.Generator().manual_seed(2)
    shapes = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_out), "b_dec": (d_out,), **more}
    return {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}


def theirs(about, tensors, x):
    """What the fields of the format mean, written down once more."""
    read = x - tensors["b_dec"] if about["apply_b_dec_to_input"] else x
    pre = read @ tensors["W_enc"] + tensors["b_enc"]
    norms = tensors["W_dec"].norm(dim=-1) if about.get("rescale_acts_by_decoder_norm") else torch.ones(())
    pre = pre * norms
    match about["architecture"]:
        case "topk":
            latents = torch.where(pre >= pre.sort(descending=True).values[:, about["k"] - 1 : about["k"]], pre, 0).relu()
        case "jumprelu" | "jumprelu_skip_transcoder":
            latents = pre.relu() * (pre > tensors["threshold"])
        case _:
            latents = pre.relu()
    out = (latents / norms) @ tensors["W_dec"] + tensors["b_dec"]
    return out + x @ tensors["W_skip"].T if "W_skip" in tensors else out


@pytest.mark.parametrize(
    ("about", "tensors"),
    [
        ({"architecture": "standard", "apply_b_dec_to_input": True}, weights()),
        ({"architecture": "standard", "apply_b_dec_to_input": False}, weights()),
        ({"architecture": "topk", "k": 3, "apply_b_dec_to_input": True}, weights()),
        ({"architecture": "topk", "k": 3, "apply_b_dec_to_input": True, "rescale_acts_by_decoder_norm": True}, weights()),
        ({"architecture": "jumprelu", "apply_b_dec_to_input": False}, weights(threshold=(10,))),
        ({"architecture": "skip_transcoder", "d_out": 4, "apply_b_dec_to_input": False}, weights(d_out=4, W_skip=(4, 6))),
        (
            {"architecture": "jumprelu_skip_transcoder", "d_out": 4, "apply_b_dec_to_input": False},
            weights(d_out=4, W_skip=(4, 6), threshold=(10,)),
        ),
    ],
)
def test_what_sae_lens_writes_is_computed_as_it_says(about, tensors, tmp_path):
    if "threshold" in tensors:
        tensors["threshold"].abs_()
    base = {
        "d_in": 6,
        "d_sae": 10,
        "dtype": "float32",
        "device": "cuda",
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    metadata = {"sae_lens_version": "6.21.0", "hook_name": "blocks.7.hook_resid_post", "model_name": "a/b", "hook_head_index": None}
    folder = write(tmp_path / "sae", {**base, **about, "metadata": metadata}, tensors)
    found = sae.load_dictionary(folder)
    assert found.config.name == "blocks.7.resid_post"
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(3))
    # float32: decoder norms are folded into the encoder, which rounds anew
    torch.testing.assert_close(found(x), theirs(about, tensors, x), atol=2e-5, rtol=1e-5)
    if about["architecture"] != "topk" or "rescale_acts_by_decoder_norm" in about:
        torch.testing.assert_close(found.W_dec.norm(dim=1), torch.ones(10))


def test_thresholds_below_zero_and_rows_of_nothing_are_read_as_sae_lens_means_them(tmp_path):
    about = {"architecture": "jumprelu", "apply_b_dec_to_input": False, "d_in": 6, "d_sae": 10, "dtype": "float32"}
    tensors = weights(threshold=(10,))
    tensors["threshold"][:5] = -0.5
    tensors["W_dec"][3] = 0
    found = sae.load_dictionary(write(tmp_path / "sae", about, tensors))
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(found(x), theirs(about, tensors, x), atol=2e-5, rtol=1e-5)  # as above
    assert found.encode(x).min() == 0
    assert (found.encode(x)[:, 3] > 0).any()
    expected = torch.ones(10)
    expected[3] = 0
    torch.testing.assert_close(found.W_dec.norm(dim=1), expected)


def test_what_sae_lens_wrote_before_version_six_is_read(tmp_path):
    about = {
        "architecture": "standard", "d_in": 6, "d_sae": 10, "dtype": "torch.float32", "hook_name": "blocks.2.attn.hook_z",
        "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}, "apply_b_dec_to_input": True,
        "normalize_activations": "none", "sae_lens_training_version": "3.1.0", "finetuning_scaling_factor": False,
    }  # fmt: skip
    found = sae.load_dictionary(write(tmp_path / "sae", about, weights()))
    assert (found.config.kind, found.config.k, found.config.name) == ("topk", 4, "blocks.2.attn.z")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architecture": "gated"}, "its architecture is 'gated'; expected one of standard, topk"),
        ({"normalize_activations": "layer_norm"}, "normalises each activation as it runs"),
        ({"d_in": 7}, r"the shape of W_enc is \(6, 10\); expected \(7, 10\)|the shape of W_dec"),
        ({"dtype": "int8"}, "it lacks 'int8'"),
        ({"d_sae": None}, "describes no dictionary"),
        ({"architecture": "jumprelu"}, "the shape of threshold is missing"),
        ({"finetuning_scaling_factor": True}, "a scaling factor of its own"),
    ],
)
def test_folders_that_are_not_read(changes, sentence, tmp_path):
    base = {"architecture": "standard", "d_in": 6, "d_sae": 10, "dtype": "float32", "apply_b_dec_to_input": True}
    with pytest.raises(ValueError, match=sentence):
        sae.load_dictionary(write(tmp_path / "sae", {**base, **changes}, weights()))


def test_folders_that_hold_no_dictionary(tmp_path):
    with pytest.raises(ValueError, match=r"holds no cfg.json, so it is no saved dictionary"):
        sae.load_dictionary(tmp_path)
    (tmp_path / "cfg.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="describes no dictionary"):
        sae.load_dictionary(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds other things \(notes.txt\)"):
        sae.save_dictionary(make("relu"), tmp_path)
    with pytest.raises(ValueError, match="is a file: give a folder"):
        sae.save_dictionary(make("relu"), tmp_path / "notes.txt")


def test_a_damaged_file_is_one_sentence(tmp_path):
    folder = sae.save_dictionary(make("relu"), tmp_path / "sae")
    path = folder / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="is damaged"):
        sae.load_dictionary(folder)


def test_a_dictionary_knows_what_its_model_is_called(tmp_path):
    made = make("topk")
    folder = sae.save_dictionary(made, tmp_path / "sae", model="runs/demo")
    again = sae.load_dictionary(folder)
    assert again.config == dataclasses.replace(made.config, model="runs/demo")
    assert sae.dictionary_sha256(again) == sae.dictionary_sha256(made)
    assert sae.load_dictionary(sae.save_dictionary(again, tmp_path / "twice")).config.model == "runs/demo"
    assert sae.load_dictionary(sae.save_dictionary(made, tmp_path / "nameless")).config.model == ""
    assert "model" not in made.config.to_dict()  # as before it had a name
