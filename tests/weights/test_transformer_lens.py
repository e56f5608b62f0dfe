"""States of TransformerLens: the logits of its equations, written down here in its own layouts, and nothing is dropped unsaid.

The reference below was itself compared with TransformerLens 2.18 once, on nine kinds of models: in float64 and with the same rotary
angles at most 7e-14 apart. That library is too heavy for every test run.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.weights.source import read_model
from cutaway.weights.transformer_lens import TransformerLensState, is_transformer_lens

# float64 keeps 16 digits; two layers in another order differ by 1e-14. A wrong layout or epsilon shows at 1e-7 or above.
TOLERANCE = 1e-9

State = dict[str, Tensor]

# d_model 20 is not n_heads d_head = 24, so that no axis can stand for another
SIZES: dict[str, Any] = {"d_vocab": 31, "n_ctx": 12, "n_layers": 2, "n_heads": 4, "d_model": 20, "d_head": 6, "d_mlp": 28}
FREE: dict[str, Any] = {**SIZES, "tie_embeddings": False, "unembed_bias": True}
GROUPED: dict[str, Any] = {
    **SIZES,
    "tie_embeddings": False,
    "norm": "rmsnorm",
    "position": "rotary",
    "act": "silu",
    "gated_mlp": True,
    "n_kv_heads": 2,
    "attn_bias": False,
    "mlp_bias": False,
}

CASES: dict[str, dict[str, Any]] = {
    "causal": FREE,
    "tied": SIZES,
    "bidirectional": {**FREE, "is_causal": False, "act": "relu", "d_vocab_out": 2},
    "no-norm": {**FREE, "norm": "none", "act": "relu", "d_vocab_out": 7},
    "shortformer": {**FREE, "d_mlp": 0, "position": "attention_only"},
    "shortformer-no-norm": {**FREE, "d_mlp": 0, "position": "attention_only", "norm": "none", "unembed_bias": False},
    "no-biases": {**SIZES, "tie_embeddings": False, "attn_bias": False, "mlp_bias": False, "norm_bias": False, "act": "gelu"},
    "rotary-part": {**FREE, "position": "rotary", "rotary_dim": 4, "rotary_base": 500.0},
    "rotary-parallel": {**FREE, "position": "rotary", "block": "parallel"},
    "gated-grouped": GROUPED,
    "gated-grouped-biases": {**GROUPED, "attn_bias": True, "mlp_bias": True},
}


def draw_state(config: ModelConfig, *, seed: int = 0) -> State:
    """Draw a state as TransformerLens stores it: every bias there, and zero where our model has none; its buffers too."""
    generator = torch.Generator().manual_seed(seed)
    c = config

    def draw(*shape: int, is_there: bool = True, centre: float = 0.0) -> Tensor:
        return (centre + 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)) * is_there

    state = {"embed.W_E": draw(c.d_vocab, c.d_model)}
    if c.position != "rotary":
        state["pos_embed.W_pos"] = draw(c.n_ctx, c.d_model, is_there=c.position != "none")
    for layer in range(c.n_layers):
        state |= {f"blocks.{layer}.{name}": x for name, x in draw_block(c, draw).items()}
    state |= draw_norm(c, "ln_final", draw)
    state["unembed.W_U"] = state["embed.W_E"].T.contiguous() if c.tie_embeddings else draw(c.d_model, c.d_vocab_out)
    state["unembed.b_U"] = draw(c.d_vocab_out, is_there=c.unembed_bias)
    return state


def draw_block(c: ModelConfig, draw: Callable[..., Tensor]) -> State:
    kv = "_" if c.n_kv_heads != c.n_heads else ""
    block = draw_norm(c, "ln1", draw)
    block |= {"attn.W_Q": draw(c.n_heads, c.d_model, c.d_head), "attn.W_O": draw(c.n_heads, c.d_head, c.d_model)}
    block |= {f"attn.{kv}W_{part}": draw(c.n_kv_heads, c.d_model, c.d_head) for part in "KV"}
    block |= {"attn.b_Q": draw(c.n_heads, c.d_head, is_there=c.attn_bias), "attn.b_O": draw(c.d_model, is_there=c.attn_bias)}
    block |= {f"attn.{kv}b_{part}": draw(c.n_kv_heads, c.d_head, is_there=c.attn_bias) for part in "KV"}
    block |= {"attn.mask": torch.ones(c.n_ctx, c.n_ctx).tril().bool(), "attn.IGNORE": torch.tensor(-torch.inf)}
    if c.position == "rotary":
        angles = rotary_angles(c, c.n_ctx)
        block |= {"attn.rotary_sin": torch.cat([angles.sin()] * 2, -1), "attn.rotary_cos": torch.cat([angles.cos()] * 2, -1)}
    if c.d_mlp:
        block |= {name.replace("ln1", "ln2"): x.clone() for name, x in block.items() if "ln1" in name}  # one norm in parallel
        block |= draw_norm(c, "ln2", draw) if c.block == "sequential" else {}
        block |= {"mlp.W_in": draw(c.d_model, c.d_mlp), "mlp.W_out": draw(c.d_mlp, c.d_model)}
        block |= {"mlp.W_gate": draw(c.d_model, c.d_mlp)} if c.gated_mlp else {}
        block |= {
            "mlp.b_in": draw(c.d_mlp, is_there=c.mlp_bias and not c.gated_mlp),
            "mlp.b_out": draw(c.d_model, is_there=c.mlp_bias),
        }
    return block


def draw_norm(c: ModelConfig, name: str, draw: Callable[..., Tensor]) -> State:
    if c.norm == "none":
        return {}
    norm = {f"{name}.w": draw(c.d_model, centre=1.0)}
    return norm | ({f"{name}.b": draw(c.d_model, is_there=c.norm_bias)} if c.norm == "layernorm" else {})


def rotary_angles(c: ModelConfig, n_pos: int) -> Tensor:
    exponents = torch.arange(0, c.rotary_dim, 2).float() / c.rotary_dim
    return torch.arange(n_pos).float()[:, None] * (1.0 / c.rotary_base**exponents)


def reference(state: State, c: ModelConfig, tokens: Tensor, hidden_keys: Tensor | None = None) -> Tensor:
    """Compute the logits from the tensors as they lie in the state; `hidden_keys` is True "batch pos" at padding."""
    position_vectors = state.get("pos_embed.W_pos", torch.zeros(c.n_ctx, c.d_model))[: tokens.shape[1]].double()
    x = state["embed.W_E"][tokens] + (0 if c.position == "attention_only" else position_vectors)
    for layer in range(c.n_layers):
        block = {name.removeprefix(f"blocks.{layer}."): tensor for name, tensor in state.items()}
        normed = reference_norm(block, "ln1", c, x)
        qk_in = normed + position_vectors if c.position == "attention_only" else normed
        after_attn = x + reference_attention(block, c, qk_in, normed, hidden_keys)
        if c.d_mlp == 0:
            x = after_attn
        else:
            mlp_in = x if c.block == "parallel" else after_attn
            x = after_attn + reference_mlp(block, c, reference_norm(block, "ln2", c, mlp_in))
    return reference_norm(state, "ln_final", c, x) @ state["unembed.W_U"] + state["unembed.b_U"]


def reference_norm(state: State, name: str, c: ModelConfig, x: Tensor) -> Tensor:
    if c.norm == "none":
        return x
    if c.norm == "layernorm":
        x = x - x.mean(-1, keepdim=True)
    return x / (x**2).mean(-1, keepdim=True).add(c.norm_eps).sqrt() * state.get(f"{name}.w", 1.0) + state.get(f"{name}.b", 0.0)


def reference_attention(block: State, c: ModelConfig, qk_in: Tensor, v_in: Tensor, hidden_keys: Tensor | None) -> Tensor:
    def read(part: str, source: Tensor) -> Tensor:
        W, b = (block.get(f"attn.{kind}_{part}", block.get(f"attn._{kind}_{part}")) for kind in "Wb")
        assert W is not None
        assert b is not None
        heads = torch.einsum("bpm,hmd->bhpd", source, W) + b[:, None]
        return heads.repeat_interleave(c.n_heads // len(W), dim=1)

    q, k, v = read("Q", qk_in), read("K", qk_in), read("V", v_in)
    if c.position == "rotary":
        q, k = reference_turn(q, c), reference_turn(k, c)
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / c.d_head**0.5
    if c.is_causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -torch.inf)
    if hidden_keys is not None:
        scores = scores.masked_fill(hidden_keys[:, None, None], -1e5)
    z = torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), v)
    return torch.einsum("bhqd,hdm->bqm", z, block["attn.W_O"]) + block["attn.b_O"]


def reference_turn(x: Tensor, c: ModelConfig) -> Tensor:
    """Turn pairs as complex numbers, by angles in float32, as models are trained."""
    half, angles = c.rotary_dim // 2, rotary_angles(c, x.shape[-2])
    turn = torch.complex(angles.cos().double(), angles.sin().double())
    turned = torch.complex(x[..., :half], x[..., half : 2 * half]) * turn
    return torch.cat([turned.real, turned.imag, x[..., 2 * half :]], dim=-1)


def reference_mlp(block: State, c: ModelConfig, x: Tensor) -> Tensor:
    act = {"gelu": F.gelu, "gelu_new": lambda y: F.gelu(y, approximate="tanh"), "relu": F.relu, "silu": F.silu}[c.act]
    if c.gated_mlp:
        post = act(x @ block["mlp.W_gate"]) * (x @ block["mlp.W_in"]) + block["mlp.b_in"]
    else:
        post = act(x @ block["mlp.W_in"] + block["mlp.b_in"])
    return post @ block["mlp.W_out"] + block["mlp.b_out"]


def assert_same_logits(path: Path, state: State, config: ModelConfig) -> None:
    model = read_model(TransformerLensState(path, config))
    tokens = torch.randint(config.d_vocab, (3, config.n_ctx), generator=torch.Generator().manual_seed(1))
    hidden, mask = None, None
    if not config.is_causal:
        hidden = torch.arange(config.n_ctx) >= torch.tensor([[12], [7], [4]])
        mask = ~hidden[:, None, :]
    with torch.inference_mode():
        expected, logits = reference(state, config, tokens, hidden), model(tokens, mask=mask)
    assert logits.dtype == torch.float64
    assert expected.std() > 0.5  # so that 1e-9 means nine digits
    assert (logits - expected).abs().max().item() <= TOLERANCE


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_equations(case: str, suffix: str, tmp_path: Path) -> None:
    config = ModelConfig(**CASES[case])
    state, path = draw_state(config), tmp_path / f"model{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    assert_same_logits(path, state, config)


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_folded_norms_have_weight_1_and_bias_0(tmp_path: Path, norm: str) -> None:
    config = ModelConfig(**{**FREE, "norm": norm})
    state = {name: x for name, x in draw_state(config).items() if ".ln" not in name and not name.startswith("ln")}
    torch.save(state, tmp_path / "model.pt")
    assert_same_logits(tmp_path / "model.pt", state, config)


def test_grouped_names_for_heads_of_their_own(tmp_path: Path) -> None:
    config = ModelConfig(**FREE)
    state = {name.replace("W_K", "_W_K").replace("b_K", "_b_K"): x for name, x in draw_state(config).items()}
    state = {name.replace("W_V", "_W_V").replace("b_V", "_b_V"): x for name, x in state.items()}
    torch.save(state, tmp_path / "model.pt")
    assert_same_logits(tmp_path / "model.pt", state, config)


def test_parameters_and_16_bits(tmp_path: Path) -> None:
    config = ModelConfig(**FREE)
    state = {name: x.bfloat16() if x.is_floating_point() else x for name, x in draw_state(config).items()}
    W_E = torch.nn.Parameter(state["embed.W_E"])
    torch.save({**state, "embed.W_E": W_E}, tmp_path / "model.pt")
    model = read_model(TransformerLensState(tmp_path / "model.pt", config))
    assert torch.equal(model.embed.W_E, W_E.float())


def test_describing_lists_the_file(tmp_path: Path) -> None:
    config = ModelConfig(**GROUPED)
    torch.save(draw_state(config), tmp_path / "model.pt")
    source = TransformerLensState(tmp_path / "model.pt", config)
    assert source.stored()["blocks.1.attn._W_K"] == ("float64", (2, 20, 6))
    assert source.stored()["blocks.1.attn.mask"] == ("bool", (12, 12))
    assert source.config == config


def test_names_are_told_from_others() -> None:
    assert is_transformer_lens(draw_state(ModelConfig(**SIZES)))
    assert not is_transformer_lens(["embed.W_E", "unembed.W_U.weight", "blocks.0.attn.W_Q.weight"])


def zeros_like(state: State, name: str) -> None:
    state[name] = torch.zeros_like(state[name])


def drop(state: State, part: str) -> None:
    for name in [name for name in state if part in name]:
        del state[name]


@pytest.mark.parametrize(
    ("stored", "given", "sentence"),
    [
        ({}, {"unembed_bias": False}, r"unembed\.b_U is not zero, .* leaves it out: set unembed_bias=True"),
        ({}, {"attn_bias": False}, r"blocks\.0\.attn\.b_Q is not zero, .*: set attn_bias=True"),
        ({}, {"mlp_bias": False}, r"blocks\.0\.mlp\.b_in is not zero, .*: set mlp_bias=True"),
        ({}, {"norm_bias": False}, r"blocks\.0\.ln1\.b is not zero, .*: set norm_bias=True"),
        ({}, {"position": "none"}, r"pos_embed\.W_pos is not zero, .*: set position="),
        ({}, {"tie_embeddings": True}, r"unembed\.W_U is not the transpose of embed\.W_E: set tie_embeddings=False"),
        ({}, {"norm": "none"}, r"holds blocks\.0\.ln1\.w, .* and 2 more, which"),
        ({"norm": "rmsnorm"}, {}, r"lacks blocks\.0\.ln1\.b, .* and 2 more, which"),
        ({}, {"n_layers": 3}, "holds 2 layers; the configuration expects n_layers 3"),
        ({}, {"n_layers": 1}, "holds 2 layers; the configuration expects n_layers 1"),
        ({}, {"d_mlp": 0}, r"blocks\.0\.mlp\.W_in has shape \[20, 28\]; the configuration expects \[20, 0\]"),
        ({"d_mlp": 0}, {}, r"lacks blocks\.0\.ln2\.weight|lacks blocks\.0\.ln2\.w, "),
        ({}, {"gated_mlp": True}, r"lacks blocks\.0\.mlp\.W_gate, blocks\.1\.mlp\.W_gate, which"),
        ({"gated_mlp": True}, {}, r"holds blocks\.0\.mlp\.W_gate, blocks\.1\.mlp\.W_gate, which"),
        ({}, {"position": "rotary"}, r"pos_embed\.W_pos is not zero"),
        ({"position": "rotary"}, {"position": "none"}, r'rotary_sin, which the configuration does not know: set position="rotary"'),
        ({"position": "rotary"}, {}, r"lacks pos_embed\.W_pos"),
        (
            {"position": "rotary"},
            {"position": "rotary", "rotary_base": 100.0},
            r"rotary_sin does not hold the angles of rotary_dim 6 and rotary_base 100 ",
        ),
        ({"position": "rotary"}, {"position": "rotary", "rotary_dim": 4}, r"does not hold the angles of rotary_dim 4"),
        ({}, {"block": "parallel"}, r"blocks\.0\.ln2\.w is not ln1's, and a parallel block"),
        (
            {},
            {"d_head": 5},
            r"blocks\.0\.attn\.W_K has shape \[4, 20, 6\]; the configuration expects \[4, 20, 5\] \(kv_head, d_model, d_head\), "
            r"which becomes blocks\.0\.attn\.W_K\.weight of \[20, 20\]",
        ),
        ({}, {"n_kv_heads": 2}, r"blocks\.0\.attn\.W_K has shape \[4, 20, 6\]; the configuration expects \[2, 20, 6\]"),
        ({"n_kv_heads": 2}, {}, r"blocks\.0\.attn\._W_K has shape \[2, 20, 6\]; the configuration expects \[4, 20, 6\]"),
        (
            {},
            {"d_mlp": 27},
            r"blocks\.0\.mlp\.W_in has shape \[20, 28\]; .* \[20, 27\] .* becomes blocks\.0\.mlp\.W_in\.weight of \[27, 20\]",
        ),
        ({}, {"d_vocab_out": 30}, r"unembed\.W_U has shape \[20, 31\]; .* expects \[20, 30\]"),
        ({}, {"n_ctx": 11}, r"pos_embed\.W_pos has shape \[12, 20\]; the configuration expects \[11, 20\] \(n_ctx, d_model\)"),
    ],
)
def test_a_configuration_of_another_model(stored: dict[str, Any], given: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    state = draw_state(ModelConfig(**{**FREE, **stored}))
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=sentence) as caught:
        read_model(TransformerLensState(tmp_path / "model.pt", ModelConfig(**{**FREE, **given})))
    assert str(tmp_path / "model.pt") in str(caught.value)


@pytest.mark.parametrize(
    ("choices", "change", "sentence"),
    [
        (FREE, lambda s: drop(s, "W_Q"), r"lacks blocks\.0\.attn\.W_Q, blocks\.1\.attn\.W_Q, which"),
        (FREE, lambda s: drop(s, "blocks.1.ln1.b"), r"lacks blocks\.1\.ln1\.b, which"),
        (FREE, lambda s: drop(s, "blocks.1.ln1.w"), r"lacks blocks\.1\.ln1\.w, which"),
        (FREE, lambda s: s.update({"blocks.0.ln1_post.w": torch.ones(20)}), r"holds blocks\.0\.ln1_post\.w, which"),
        (FREE, lambda s: s["blocks.1.attn.mask"].logical_and_(torch.ones(12, 12).triu(-3).bool()), "local attention is not"),
        (FREE, lambda s: s.update({"blocks.1.attn.mask": torch.tensor(True)}), r"blocks\.1\.attn\.mask is no causal mask"),
        (FREE, lambda s: s.update({"blocks.0.attn.W_Q": 3}), r"'blocks\.0\.attn\.W_Q' is no plain tensor"),
        (FREE, lambda s: s.update({3: torch.ones(2)}), "3 is no plain tensor"),
        (FREE, lambda s: s.update({"embed.W_E": s["embed.W_E"].int()}), r"embed\.W_E is of torch\.int32"),
        (GROUPED, lambda s: s["blocks.1.mlp.b_in"].fill_(0.5), r"blocks\.1\.mlp\.b_in is not zero, .* added after the gate"),
        (GROUPED, lambda s: s.update({"blocks.0.attn.rotary_cos": torch.tensor(1.0)}), r"rotary_cos does not hold the angles"),
        (SIZES, lambda s: zeros_like(s, "unembed.W_U"), r"unembed\.W_U is not the transpose"),
    ],
)
def test_a_state_with_something_else_in_it(
    choices: dict[str, Any], change: Callable[[State], object], sentence: str, tmp_path: Path
) -> None:
    config = ModelConfig(**choices)
    state = draw_state(config)
    change(state)
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=sentence):
        read_model(TransformerLensState(tmp_path / "model.pt", config))


def test_pairs_of_neighbours_are_refused(tmp_path: Path) -> None:
    config = ModelConfig(**{**FREE, "position": "rotary"})
    state = draw_state(config)
    for name in [name for name in state if "rotary_" in name]:
        state[name] = state[name][:, :3].repeat_interleave(2, dim=-1)
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="pairs of neighbours are not supported"):
        read_model(TransformerLensState(tmp_path / "model.pt", config))


def test_rotary_tables_of_16_bits_are_recognised(tmp_path: Path) -> None:
    config = ModelConfig(**{**FREE, "position": "rotary"})
    state = draw_state(config)
    torch.save({name: x.bfloat16() if "rotary_" in name else x for name, x in state.items()}, tmp_path / "model.pt")
    assert_same_logits(tmp_path / "model.pt", state, config)
