"""Each refactoring gives a new model with the same function, and leaves the old one as it was."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.hooks import recording
from cutaway.interp import factored
from cutaway.interp.refactoring import (
    centre_unembed,
    centre_writing_weights,
    factor_ov,
    factor_qk,
    fold_norm,
    ungroup_heads,
)
from cutaway.model import Transformer

MakeModel = Callable[..., Transformer]

# float64 keeps 16 digits: logits of size 1 to 10, computed through other products
same = partial(torch.testing.assert_close, rtol=0, atol=1e-10)


@pytest.fixture(autouse=True)
def _no_gradients() -> object:
    with torch.no_grad():
        yield


def frozen(model: Transformer) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def is_as_before(model: Transformer, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def shares_memory(a: Transformer, b: Transformer) -> set[str]:
    theirs = {weight.data_ptr() for weight in b.parameters()}
    return {name for name, weight in a.named_parameters() if weight.data_ptr() in theirs}


def with_equal_ln1(model: Transformer) -> Transformer:
    for block in model.blocks:
        block.ln1.weight.copy_(model.blocks[0].ln1.weight)
    return model


REFACTORINGS = [fold_norm, centre_writing_weights, factor_ov, factor_qk, ungroup_heads]


@pytest.mark.parametrize("refactor", REFACTORINGS)
def test_the_function_is_the_same(
    refactor: Callable[[Transformer], Transformer], variant: ModelConfig, make_model: MakeModel, tokens: Tensor
) -> None:
    model = make_model(variant)
    if refactor is centre_writing_weights and variant.norm != "layernorm":
        with pytest.raises(ValueError, match=f"this model's norm is '{variant.norm}'"):
            refactor(model)
        return
    if refactor is factor_qk and variant.position == "rotary":
        with pytest.raises(ValueError, match="rotary positions turn fixed pairs"):
            refactor(model)
        return
    if refactor is fold_norm and variant.position == "attention_only":
        with pytest.raises(ValueError, match="only where all layers have the same"):
            refactor(model)
        with_equal_ln1(model)
    before, logits = frozen(model), model(tokens)
    new = refactor(model)
    same(new(tokens), logits)
    assert is_as_before(model, before)
    assert new.training is model.training
    assert type(new.config)(**new.config.to_dict()) == new.config
    new.load_state_dict(Transformer(new.config).double().state_dict())  # the weights are those its configuration asks for
    if refactor is not ungroup_heads:
        assert not shares_memory(new, model)
        assert is_as_before(model, before)


def test_a_model_in_training_stays_so(tiny_model: Transformer) -> None:
    assert fold_norm(tiny_model.train()).training


def test_16_bit_models_stay_so(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    for attn_bias in (False, True):
        model = make_model(tiny_config.replace(attn_bias=attn_bias), dtype=torch.bfloat16)
        for refactor in (*REFACTORINGS, centre_unembed):
            assert {weight.dtype for weight in refactor(model).parameters()} == {torch.bfloat16}, refactor.__name__


# --- norms


def test_folded_norms_do_nothing_but_normalise(variant: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(variant)
    if variant.position == "attention_only":
        with_equal_ln1(model)
    new = fold_norm(model)
    for name, weight in new.named_parameters():
        if ".ln" in name:
            assert (weight == (0 if name.endswith("bias") else 1)).all(), name
    if variant.norm != "none":
        assert not new.config.tie_embeddings
        assert new.unembed.W_U.weight is not new.embed.W_E
        assert new.config.norm == variant.norm


def test_folded_biases_are_turned_on_only_where_norms_have_them(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    without = tiny_config.replace(attn_bias=False, mlp_bias=False)
    assert fold_norm(make_model(without)).config == without.replace(
        attn_bias=True, mlp_bias=True, unembed_bias=True, tie_embeddings=False
    )
    rms = without.replace(norm="rmsnorm", norm_bias=False)
    assert fold_norm(make_model(rms)).config == rms.replace(tie_embeddings=False)


def test_what_is_read_from_the_stream_is_the_same_after_folding(
    variant: ModelConfig, make_model: MakeModel, tokens: Tensor
) -> None:
    model = make_model(variant)
    if variant.position == "attention_only":
        with_equal_ln1(model)
    hooks, before = recording("*.q", "*.k", "*.v", "*.resid_post", *(["*.mlp.*"] if variant.d_mlp else []))
    model(tokens, hooks=hooks)
    hooks, after = recording(*before)
    fold_norm(model)(tokens, hooks=hooks)
    for name, activation in before.items():
        same(after[name], activation)


def test_one_layer_of_attention_only_positions_can_be_folded(
    tiny_config: ModelConfig, make_model: MakeModel, tokens: Tensor
) -> None:
    model = make_model(tiny_config.replace(position="attention_only", n_layers=1))
    same(fold_norm(model)(tokens), model(tokens))
    model.blocks[0].ln1.weight[3] = 0
    with pytest.raises(ValueError, match="hold a zero"):
        fold_norm(model)


# --- centring


def test_the_stream_has_no_mean_after_centring(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    if variant.norm != "layernorm":
        return
    model = make_model(variant)
    hooks, before = recording("*.resid_post")
    model(tokens, hooks=hooks)
    hooks, seen = recording("embed", "*.attn_out", *(["*.mlp_out"] if variant.d_mlp else []), "*.resid_post")
    new = centre_writing_weights(model)
    new(tokens, hooks=hooks)
    for name, activation in seen.items():
        if not (variant.position == "sinusoidal" and name.endswith("resid_post")):  # whose means stay, as is said
            same(activation.mean(dim=-1), torch.zeros(2, 9, dtype=torch.float64))
            if name in before:
                same(activation, before[name] - before[name].mean(dim=-1, keepdim=True))
    assert not new.config.tie_embeddings
    if variant.position == "attention_only":
        assert torch.equal(new.qk_positions.W_pos, model.qk_positions.W_pos)


def test_a_centred_unembedding_changes_logits_by_a_constant(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(variant)
    before, logits = frozen(model), model(tokens)
    new = centre_unembed(model)
    same(new(tokens), logits - logits.mean(dim=-1, keepdim=True))
    same(new(tokens).log_softmax(dim=-1), logits.log_softmax(dim=-1))
    assert is_as_before(model, before)
    assert not shares_memory(new, model)


def test_refactorings_follow_each_other(tiny_model: Transformer, tokens: Tensor) -> None:
    new = centre_unembed(centre_writing_weights(factor_qk(factor_ov(fold_norm(tiny_model)))))
    same(new(tokens).log_softmax(dim=-1), tiny_model(tokens).log_softmax(dim=-1))


# --- heads


def test_ungrouped_heads_share_all_other_memory(variant: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(variant)
    new = ungroup_heads(model)
    assert new.config == variant.replace(n_kv_heads=variant.n_heads)
    own = {name for name, _ in new.named_parameters()} - shares_memory(new, model)
    is_grouped = variant.n_kv_heads < variant.n_heads
    assert {name.split(".")[-2] for name in own} == ({"W_K", "W_V"} if is_grouped else set())
    assert (new.unembed.W_U.weight is new.embed.W_E) == variant.tie_embeddings
    for name in ("W_K", "W_V", "b_K", "b_V"):
        assert torch.equal(getattr(factored, name)(new), getattr(factored, name)(model)), name


def test_ungrouped_heads_are_edited_alone(make_model: MakeModel, tiny_config: ModelConfig, tokens: Tensor) -> None:
    new = ungroup_heads(make_model(tiny_config.replace(n_kv_heads=2)))
    hooks, seen = recording("blocks.0.attn.z")
    new(tokens, hooks=hooks)
    before = seen["blocks.0.attn.z"].clone()

    def zero_head_1(k: Tensor, name: str) -> Tensor:
        return k * torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=k.dtype)[:, None]

    new(tokens, hooks={"blocks.0.attn.k": zero_head_1, "blocks.0.attn.z": lambda z, name: seen.update({name: z})})
    changed = (seen["blocks.0.attn.z"] - before).abs().amax(dim=(0, 1, 3)) > 1e-6
    assert changed.tolist() == [False, True, False, False]


def test_factored_circuits_are_the_same_products(variant: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(variant)
    new = factor_ov(model)
    for layer in range(variant.n_layers):
        same(factored.ov_circuit(new, layer).AB, factored.ov_circuit(model, layer).AB)
        assert torch.equal(factored.W_Q(new, layer), factored.W_Q(model, layer))
    if variant.position == "rotary":
        return
    new = factor_qk(model)
    for layer in range(variant.n_layers):
        same(factored.qk_circuit(new, layer).AB, factored.qk_circuit(model, layer).AB)
        assert torch.equal(factored.W_V(new, layer), factored.W_V(model, layer))


def test_z_has_the_norm_of_what_its_head_writes(tiny_config: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    new = factor_ov(make_model(tiny_config))
    hooks, seen = recording("*.z", "*.result")
    new(tokens, hooks=hooks)
    for layer in range(2):
        z, result = (seen[f"blocks.{layer}.attn.{name}"] for name in ("z", "result"))
        same(z.norm(dim=-1), result.norm(dim=-1))
    strengths = factored.W_V(new).norm(dim=-2)  # layer head d_head: the singular values
    assert (strengths.diff(dim=-1) <= 1e-12).all()
    same(strengths[1, 2], torch.linalg.svdvals(factored.ov_circuit(make_model(tiny_config), 1, 2).AB)[:4])


def test_heads_without_full_rank_are_factored_too(tiny_config: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    for choices in ({"d_head": 20}, {"d_head": 20, "n_kv_heads": 2}, {}):
        model = make_model(tiny_config.replace(**choices))
        attn = model.blocks[0].attn
        attn.W_V.weight[:3] = 0  # values in fewer directions, with biases still
        attn.W_K.weight[1:4] = attn.W_K.weight[0]
        same(factor_qk(factor_ov(model))(tokens), model(tokens))
