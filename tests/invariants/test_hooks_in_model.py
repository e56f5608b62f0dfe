"""Hooks in a model: which there are, that they see what is consumed, and that they leave nothing behind."""

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cutaway.config import ModelConfig
from cutaway.hooks import Hooks, recording, replacing
from cutaway.model import Transformer

MakeModel = Callable[..., Transformer]
MakeTokens = Callable[..., Tensor]

# float64 keeps 16 digits: the same sums in another order, with numbers of size 1 to 100
EXACT = {"rtol": 0.0, "atol": 1e-12}

# --- the names, in the order of the computation

ATTN = "attn.q attn.k attn.v attn.attn_scores attn.pattern attn.z attn.result attn_out"
ROTARY_ATTN = "attn.q attn.k attn.v attn.rot_q attn.rot_k attn.attn_scores attn.pattern attn.z attn.result attn_out"
LN1, LN2, LN_FINAL = "ln1.scale ln1.normalized", "ln2.scale ln2.normalized", "ln_final.scale ln_final.normalized"
MLP, GATED_MLP = "mlp.pre mlp.post mlp_out", "mlp.pre mlp.pre_linear mlp.post mlp_out"

# before the blocks, in each block, after them: section 3.1 of the design, less what a shape has not
NAMES = {
    "gpt2": ("embed pos_embed", f"resid_pre {LN1} {ATTN} resid_mid {LN2} {MLP} resid_post", LN_FINAL),
    "gpt2-without-biases": ("embed pos_embed", f"resid_pre {LN1} {ATTN} resid_mid {LN2} {MLP} resid_post", LN_FINAL),
    "phi": ("embed", f"resid_pre {LN1} {ROTARY_ATTN} {MLP} resid_post", LN_FINAL),
    "llama": ("embed", f"resid_pre {LN1} {ROTARY_ATTN} resid_mid {LN2} {GATED_MLP} resid_post", LN_FINAL),
    "llama-multi-query-untied": (
        "embed",
        f"resid_pre {LN1} {ROTARY_ATTN} resid_mid {LN2} {GATED_MLP} resid_post",
        LN_FINAL,
    ),
    "attention-only": ("embed pos_embed", f"resid_pre {LN1} {ATTN} resid_post", LN_FINAL),
    "attention-only-parallel": ("embed", f"resid_pre {ATTN} resid_post", ""),
    "other-output-words": ("embed pos_embed", f"resid_pre {ATTN} resid_mid {MLP} resid_post", ""),
    "wide-heads": ("embed pos_embed", f"resid_pre {LN1} {ATTN} resid_mid {LN2} {MLP} resid_post", LN_FINAL),
    "parallel-gated": ("embed pos_embed", f"resid_pre {LN1} {ATTN} {GATED_MLP} resid_post", LN_FINAL),
    "bidirectional": ("embed pos_embed", f"resid_pre {LN1} {ATTN} resid_mid {LN2} {MLP} resid_post", LN_FINAL),
    "bidirectional-rotary": ("embed", f"resid_pre {LN1} {ROTARY_ATTN} {MLP} resid_post", LN_FINAL),
    "bidirectional-gated": (
        "embed pos_embed",
        f"resid_pre {LN1} {ATTN} resid_mid {LN2} {GATED_MLP} resid_post",
        LN_FINAL,
    ),
}


def test_names_are_those_of_the_design(
    variant: ModelConfig, make_model: MakeModel, tokens: Tensor, request: pytest.FixtureRequest
) -> None:
    before, in_block, after = (part.split() for part in NAMES[request.node.callspec.params["variant"]])
    in_blocks = [f"blocks.{layer}.{name}" for layer in range(variant.n_layers) for name in in_block]
    model = make_model(variant)
    hooks, activations = recording("*")
    model(tokens, hooks=hooks)
    assert list(activations) == [*before, *in_blocks, *after, "logits"]
    assert model.hook_names() == list(activations)


def test_shapes_are_those_of_the_words(make_model: MakeModel, tiny_config: ModelConfig, tokens: Tensor) -> None:
    model = make_model(tiny_config.replace(n_kv_heads=2, d_head=6, position="rotary", gated_mlp=True, d_mlp=20))
    hooks, activations = recording("*")
    model(tokens, hooks=hooks)
    assert {name.removeprefix("blocks.0."): tuple(x.shape) for name, x in activations.items() if ".1." not in name} == {
        "embed": (2, 9, 16),
        "resid_pre": (2, 9, 16),
        "ln1.scale": (2, 9, 1),
        "ln1.normalized": (2, 9, 16),
        "attn.q": (2, 9, 4, 6),
        "attn.k": (2, 9, 2, 6),
        "attn.v": (2, 9, 2, 6),
        "attn.rot_q": (2, 9, 4, 6),
        "attn.rot_k": (2, 9, 2, 6),
        "attn.attn_scores": (2, 4, 9, 9),
        "attn.pattern": (2, 4, 9, 9),
        "attn.z": (2, 9, 4, 6),
        "attn.result": (2, 9, 4, 16),
        "attn_out": (2, 9, 16),
        "resid_mid": (2, 9, 16),
        "ln2.scale": (2, 9, 1),
        "ln2.normalized": (2, 9, 16),
        "mlp.pre": (2, 9, 20),
        "mlp.pre_linear": (2, 9, 20),
        "mlp.post": (2, 9, 20),
        "mlp_out": (2, 9, 16),
        "resid_post": (2, 9, 16),
        "ln_final.scale": (2, 9, 1),
        "ln_final.normalized": (2, 9, 16),
        "logits": (2, 9, 31),
    }


def test_transformerlens_spellings_are_heard(tiny_model: Transformer, tokens: Tensor) -> None:
    hooks, activations = recording("blocks.0.attn.hook_pattern", "blocks.*.hook_resid_pre", "hook_embed")
    tiny_model(tokens, hooks=hooks)
    assert list(activations) == ["embed", "blocks.0.resid_pre", "blocks.0.attn.pattern", "blocks.1.resid_pre"]


# --- what they see is what is consumed


def test_every_tensor_seen_is_consumed(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(variant)
    seen: dict[str, Tensor] = {}

    def keep_gradient(x: Tensor, name: str) -> None:
        if x.requires_grad:  # sinusoidal positions have nothing to learn
            x.retain_grad()
            seen[name] = x

    probe = torch.randn(2, 9, variant.d_vocab_out, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (model(tokens, hooks=Hooks({"*": keep_gradient})) * probe).sum().backward()
    for name, x in seen.items():
        assert x.grad is not None, name
        leaf = x.detach().requires_grad_()
        (model(tokens, hooks=replacing({name: leaf})) * probe).sum().backward()
        torch.testing.assert_close(x.grad, leaf.grad, rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")


def test_patching_clean_into_clean_changes_nothing(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(variant)
    hooks, activations = recording("*")
    logits = model(tokens, hooks=hooks)
    for name, clean in activations.items():
        torch.testing.assert_close(model(tokens, hooks=replacing({name: clean})), logits, **EXACT)
    assert torch.equal(model(tokens, hooks=replacing(activations)), logits)


def test_every_replacement_is_consumed(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(variant)
    logits = model(tokens)
    for name in model.hook_names():
        changed = model(tokens, hooks=Hooks({name: lambda x, _: x * torch.linspace(0.5, 2, x.shape[-1]).double() + 1}))
        assert (changed - logits).abs().max() > 1e-6, name


def test_patching_the_whole_stream_is_the_other_run_from_there(
    variant: ModelConfig, make_model: MakeModel, make_tokens: MakeTokens
) -> None:
    model, clean, corrupted = make_model(variant), make_tokens(), make_tokens(seed=2)
    hooks, activations = recording("blocks.*.resid_pre", "blocks.*.resid_post")
    logits = model(clean, hooks=hooks)
    for name, resid in activations.items():
        assert torch.equal(model(corrupted, hooks=replacing({name: resid})), logits)


def test_an_attention_pattern_by_hand(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(variant)
    attn = model.blocks[1].attn
    pattern = torch.rand(2, 4, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    watching, activations = recording("blocks.1.attn.v", "blocks.1.attn_out")
    model.run_blocks(model.embed(tokens), hooks=watching)
    before = activations["blocks.1.attn_out"]
    by_two = {"blocks.1.attn.pattern": lambda _x, _name: pattern}
    seen: dict[str, Tensor] = {}
    model.run_blocks(model.embed(tokens), hooks=Hooks({**by_two, "blocks.1.attn_out": lambda x, name: seen.update({name: x})}))
    expected = torch.zeros_like(before)
    for head in range(4):
        v = activations["blocks.1.attn.v"][:, :, head * attn.n_kv_heads // 4]  # batch pos d_head
        columns = slice(head * attn.d_head, (head + 1) * attn.d_head)
        expected += pattern[:, head] @ v @ attn.W_O.weight[:, columns].T
    expected += 0 if attn.W_O.bias is None else attn.W_O.bias
    torch.testing.assert_close(seen["blocks.1.attn_out"], expected, **EXACT)
    assert (expected - before).abs().max() > 0.1


def test_scores_are_masked_and_become_the_pattern(causal_variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    hooks, activations = recording("blocks.*.attn.attn_scores", "blocks.*.attn.pattern")
    make_model(causal_variant)(tokens, hooks=hooks)
    future = torch.ones(9, 9, dtype=torch.bool).triu(1)
    for layer in range(causal_variant.n_layers):
        scores, pattern = (activations[f"blocks.{layer}.attn.{name}"] for name in ("attn_scores", "pattern"))
        assert (scores[..., future] == -torch.inf).all()
        assert (pattern[..., future] == 0).all()
        torch.testing.assert_close(scores.exp() / scores.exp().sum(-1, keepdim=True), pattern, **EXACT)


def test_a_change_in_place_is_a_change(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(variant)

    def halve_in_place(x: Tensor, _name: str) -> None:
        x.mul_(0.5)

    with torch.inference_mode():
        for name in model.hook_names():
            in_place = model(tokens, hooks=Hooks({name: halve_in_place}))
            replaced = model(tokens, hooks=Hooks({name: lambda x, _: x * 0.5}))
            torch.testing.assert_close(in_place, replaced, msg=lambda text, name=name: f"{name}: {text}", **EXACT)


def test_several_functions_run_in_the_order_given(tiny_model: Transformer, tokens: Tensor) -> None:
    given = {"blocks.0.resid_post": [lambda x, _: x + 1, lambda x, _: 2 * x]}
    expected = tiny_model.run_blocks(2 * (tiny_model.run_blocks(tiny_model.embed(tokens), range(1)) + 1), range(1, 2))
    assert torch.equal(tiny_model(tokens, hooks=Hooks(given)), tiny_model.unembed(expected))


# --- sums


def test_heads_sum_to_the_output_of_attention(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(variant)
    with_result, activations = recording("blocks.*.attn.result")
    without, outputs = recording("blocks.*.attn_out")
    logits = model(tokens, hooks=with_result)
    torch.testing.assert_close(logits, model(tokens, hooks=without), **EXACT)
    for layer, block in enumerate(model.blocks):
        total = activations[f"blocks.{layer}.attn.result"].sum(dim=-2)
        total += 0 if block.attn.W_O.bias is None else block.attn.W_O.bias
        torch.testing.assert_close(total, outputs[f"blocks.{layer}.attn_out"], **EXACT)


def test_writers_sum_to_the_stream(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    hooks, activations = recording("*")
    make_model(variant)(tokens, hooks=hooks)
    writers = [x for name, x in activations.items() if name == "embed" or name.endswith(("attn_out", "mlp_out"))]
    if variant.position in ("learned", "sinusoidal"):
        writers.append(activations["pos_embed"].expand(2, -1, -1).double())
    assert len(writers) >= 1 + variant.n_layers
    total = torch.stack(writers).sum(dim=0)
    torch.testing.assert_close(total, activations[f"blocks.{variant.n_layers - 1}.resid_post"], **EXACT)


# --- nothing stays, nothing is shared


def everything_on(model: nn.Module) -> list[tuple[str, str, object]]:
    """Every attribute of every module, with what identifies its value."""
    return [
        (path, name, tuple(value.items()) if isinstance(value, dict) else id(value))
        for path, module in model.named_modules()
        for name, value in vars(module).items()
    ]


def test_nothing_stays_on_the_model(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(variant)
    before, logits = everything_on(model), model(tokens)
    hooks = Hooks({"*": lambda x, _: x + 0.1})
    assert not torch.equal(model(tokens, hooks=hooks), logits)
    with pytest.raises(KeyError):
        model(tokens, hooks=Hooks({"blocks.1.attn.z": lambda x, _: {}[x]}))  # type: ignore[misc]
    assert everything_on(model) == before
    assert torch.equal(model(tokens), logits)


def test_threads_do_not_meet(tiny_model: Transformer, make_tokens: MakeTokens) -> None:
    n_threads, n_rounds = 4, 15
    inputs = [make_tokens(seed=seed) for seed in range(n_threads)]

    def shift_by(amount: float) -> Hooks:
        return Hooks({"blocks.0.resid_post": lambda x, _: x + amount, "blocks.1.attn.pattern": lambda x, _: x * amount})

    with torch.inference_mode():
        expected = [tiny_model(tokens, hooks=shift_by(thread)) for thread, tokens in enumerate(inputs)]
    together, wrong, n_runs = threading.Barrier(n_threads), [], []

    def run(thread: int) -> None:
        together.wait()
        for _ in range(n_rounds):
            with torch.inference_mode():
                logits = tiny_model(inputs[thread], hooks=shift_by(thread))
            n_runs.append(thread)
            if not torch.equal(logits, expected[thread]):
                wrong.append(thread)

    threads = [threading.Thread(target=run, args=(thread,)) for thread in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(n_runs) == n_threads * n_rounds
    assert not wrong


# --- what is refused


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("blocks.0.attn.patern", "blocks.0.attn.pattern"),
        ("blocks.7.resid_pre", "blocks.1.resid_pre"),
        ("blocks.*.attn.rot_q", "blocks.0.attn.q"),
        ("logit", "logits"),
        ("blocks.0.mlp.hook_pre_linear", "blocks.0.mlp.pre"),
    ],
)
def test_a_name_that_is_not_there_is_refused(tiny_model: Transformer, tokens: Tensor, name: str, nearest: str) -> None:
    hooks, _ = recording("embed", name)
    with pytest.raises(ValueError, match="no activation is called") as refused:
        tiny_model(tokens, hooks=hooks)
    assert nearest in str(refused.value)


def test_hooks_are_asked_for_in_every_run(tiny_model: Transformer, tokens: Tensor) -> None:
    """The same hooks on a second model, which lacks the name: it has fired before, and not there."""
    hooks, _ = recording("blocks.1.resid_pre")
    tiny_model(tokens, hooks=hooks)
    smaller = Transformer(tiny_model.config.replace(n_layers=1)).double()
    with pytest.raises(ValueError, match=r"no activation is called 'blocks\.1\.resid_pre'"):
        smaller(tokens, hooks=hooks)


def test_another_shape_is_refused_where_it_is_returned(tiny_model: Transformer, tokens: Tensor) -> None:
    hooks = Hooks({"blocks.1.attn.z": lambda x, _: x[:, :1]})
    with pytest.raises(
        ValueError, match=r"'blocks.1.attn.z' returned a tensor of shape \(2, 1, 4, 4\), .*; expected .* \(2, 9, 4, 4\)"
    ):
        tiny_model(tokens, hooks=hooks)


def test_a_mapping_is_hooks_too(tiny_model: Transformer, tokens: Tensor) -> None:
    seen: list[str] = []
    expected = tiny_model(tokens)
    assert torch.equal(tiny_model(tokens, hooks={"blocks.*.attn.hook_z": lambda x, name: seen.append(name)}), expected)
    assert seen == ["blocks.0.attn.z", "blocks.1.attn.z"]
    with pytest.raises(ValueError, match=r"no activation is called 'blocks\.0\.attn\.zz'"):
        tiny_model(tokens, hooks={"blocks.0.attn.zz": lambda x, name: None})
