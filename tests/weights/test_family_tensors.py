"""Tensors of every family there and back, bit for bit, and a sentence for each that does not fit."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.model import Transformer
from cutaway.weights.families import FAMILIES, family_for, family_of
from cutaway.weights.renaming import Renaming, from_theirs, to_theirs
from family_choices import LLAMA, PHI, TINY

# --- every shape there and back


@st.composite
def expressible(draw: st.DrawFn) -> ModelConfig:
    """A shape that one of the families has, at any small sizes."""
    n_kv_heads, group, pairs = draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 5))
    sizes: dict[str, Any] = {
        "d_vocab": draw(st.integers(1, 40)),
        "n_ctx": draw(st.integers(1, 30)),
        "n_layers": draw(st.integers(1, 3)),
        "n_heads": n_kv_heads * group,
        "d_model": 2 * pairs * n_kv_heads * group,
        "d_mlp": draw(st.integers(1, 50)),
        "norm_eps": draw(st.floats(0, 1e-2, exclude_min=True)),
        "act": draw(st.sampled_from(["gelu", "gelu_new", "relu", "silu"])),
        "tie_embeddings": draw(st.booleans()),
    }
    rotary = {
        "n_kv_heads": n_kv_heads,
        "rotary_base": draw(st.floats(1.0, 1e7)),
        "d_head": draw(st.sampled_from([None, 2 * pairs, 2 * pairs + 4])),
    }
    return draw(
        st.sampled_from(
            [
                ModelConfig(**sizes),
                ModelConfig(**sizes, **rotary, **PHI, rotary_dim=2 * draw(st.integers(1, pairs))),
                ModelConfig(
                    **{**LLAMA, **sizes, **rotary, "attn_bias": draw(st.booleans()), "mlp_bias": draw(st.booleans())},
                ),
            ]
        )
    )


@settings(max_examples=80, deadline=None, derandomize=True)
@given(config=expressible(), seed=st.integers(0, 99), dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_any_shape_there_and_back(config: ModelConfig, seed: int, dtype: torch.dtype) -> None:
    family = family_for(config)
    written = family.config_to_hf(config)
    assert family_of(written) is family
    assert family.config_from_hf(written) == config

    model = Transformer(config, generator=torch.Generator().manual_seed(seed)).to(dtype)
    ours = {name: weight.detach() for name, weight in model.named_parameters()}
    rows = family.rows_of(config)
    theirs = dict(to_theirs(rows, ours.items()))
    again = dict(from_theirs(family.match({name: tuple(x.shape) for name, x in theirs.items()}, config), theirs.items()))
    assert_same_bits(again, ours)
    assert_same_bits(dict(to_theirs(rows, again.items())), theirs)


def assert_same_bits(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype
        assert got[name].shape == tensor.shape
        assert torch.equal(got[name].flatten().view(torch.uint8), tensor.flatten().view(torch.uint8)), name


# --- tensors


def test_a_row_by_hand() -> None:
    row = Renaming("theirs", ("q", "k", "v"), is_conv1d=True)
    q, k, v = torch.arange(12.0).reshape(3, 2, 2)  # each d_head 2, d_model 2
    fused = torch.tensor([[0.0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]])  # d_model (part d_head)
    assert torch.equal(row.join([q, k, v]), fused)
    assert all(torch.equal(got, part) for got, part in zip(row.split(fused), (q, k, v), strict=True))
    bias = torch.arange(6.0)
    assert [part.tolist() for part in row.split(bias)] == [[0, 1], [2, 3], [4, 5]]
    assert torch.equal(row.join(row.split(bias)), bias)


def test_what_is_read_has_memory_of_its_own() -> None:
    rows = {"fused": Renaming("fused", ("q", "k"))}
    fused = torch.ones(4)
    ours = dict(from_theirs(rows, [("fused", fused), ("stray", torch.zeros(1))]))
    fused.zero_()
    assert {name: part.tolist() for name, part in ours.items()} == {"q": [1, 1], "k": [1, 1]}
    assert ours["q"].untyped_storage().nbytes() == 8


@pytest.fixture
def shapes() -> dict[str, tuple[int, ...]]:
    """The tensors of a tiny GPT-2 with one layer."""
    return {
        "transformer.wte.weight": (31, 16), "transformer.wpe.weight": (12, 16),
        "transformer.h.0.ln_1.weight": (16,), "transformer.h.0.ln_1.bias": (16,),
        "transformer.h.0.attn.c_attn.weight": (16, 48), "transformer.h.0.attn.c_attn.bias": (48,),
        "transformer.h.0.attn.c_proj.weight": (16, 16), "transformer.h.0.attn.c_proj.bias": (16,),
        "transformer.h.0.ln_2.weight": (16,), "transformer.h.0.ln_2.bias": (16,),
        "transformer.h.0.mlp.c_fc.weight": (16, 64), "transformer.h.0.mlp.c_fc.bias": (64,),
        "transformer.h.0.mlp.c_proj.weight": (64, 16), "transformer.h.0.mlp.c_proj.bias": (16,),
        "transformer.ln_f.weight": (16,), "transformer.ln_f.bias": (16,),
    }  # fmt: skip


GPT2_TINY = ModelConfig(**{**TINY, "n_layers": 1})


def test_names_without_the_prefix_and_what_is_no_weight(shapes: dict[str, tuple[int, ...]]) -> None:
    bare = {name.removeprefix("transformer."): shape for name, shape in shapes.items()}
    computed = {"h.0.attn.bias": (1, 1, 12, 12), "h.0.attn.masked_bias": (), "lm_head.weight": (31, 16)}
    full = FAMILIES["gpt2"].match(shapes, GPT2_TINY)
    rows = FAMILIES["gpt2"].match({**bare, **computed}, GPT2_TINY)
    assert {f"transformer.{name}": row for name, row in rows.items()} == full == FAMILIES["gpt2"].rows_of(GPT2_TINY)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"transformer.h.0.ln_1.bias": None}, r"transformer\.h\.0\.ln_1\.bias \(blocks\.0\.ln1\.bias\) is missing"),
        (
            {"transformer.h.0.attn.c_attn.weight": None, "transformer.wpe.weight": None},
            r"transformer\.wpe\.weight \(embed\.pos_embed\.W_pos\) and 1 more is missing",
        ),
        ({"transformer.h.1.ln_1.bias": (16,)}, r"the tensor transformer\.h\.1\.ln_1\.bias \[16\] is none that"),
        ({"h.0.attn.q_norm.weight": (4,)}, r"the tensor h\.0\.attn\.q_norm\.weight \[4\] is none that"),
        ({"transformer.wte.weight": (32, 16)}, r"wte\.weight \(embed\.W_E\) has shape \[32, 16\].* expects \[31, 16\]"),
        (
            {"transformer.h.0.attn.c_attn.weight": (48, 16)},
            r"c_attn\.weight \(blocks\.0\.attn\.W_Q\.weight, .*W_K.*, .*W_V\.weight\) has shape \[48, 16\].* expects \[16, 48\]",
        ),
        ({"wte.weight": (31, 16)}, "there twice, with and without the prefix 'transformer.'"),
    ],
)
def test_tensors_that_do_not_fit(
    shapes: dict[str, tuple[int, ...]], change: dict[str, tuple[int, ...] | None], sentence: str
) -> None:
    changed = {name: shape for name, shape in {**shapes, **change}.items() if shape is not None}
    with pytest.raises(ValueError, match=sentence):
        FAMILIES["gpt2"].match(changed, GPT2_TINY)


def test_sizes_that_no_file_can_mean(shapes: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="asks for 16777216 layers; there are 16 tensors in all"):
        FAMILIES["gpt2"].match(shapes, GPT2_TINY.replace(n_layers=2**24))
    largest = ModelConfig(**{**TINY, **LLAMA, "n_layers": 1, "n_heads": 2**24, "d_head": 2**24, "d_model": 2**24})
    with pytest.raises(ValueError, match="make tensors that no machine can hold"):
        FAMILIES["llama"].match(shapes, largest)


def test_frequencies_in_old_files_are_no_weights() -> None:
    config = ModelConfig(**TINY, **LLAMA)
    shapes = {name: tuple(x.shape) for name, x in to_theirs(FAMILIES["llama"].rows_of(config), parameters(config))}
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": (2,), "model.rotary_emb.inv_freq": (2,)}
    assert FAMILIES["llama"].match({**shapes, **old}, config).keys() == shapes.keys()


def parameters(config: ModelConfig) -> list[tuple[str, Tensor]]:
    return list(Transformer(config).named_parameters())
