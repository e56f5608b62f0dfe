"""The parts of the residual stream add up to it, whatever the model is made of, and norms and projections of them are what they say."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cutaway import edits, residual, run_with_cache
from cutaway.config import ModelConfig
from cutaway.model import NoNorm, Transformer

MakeModel = Callable[..., Transformer]
MakeTokens = Callable[..., Tensor]


def assert_same(found: Tensor, expected: Tensor, *, places: float = 1e-12) -> None:
    """float64: the same sum in another order differs by a few units of the last of 16 digits of its greatest term."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= places * max(expected.abs().max().item(), 1)


def has_mid(config: ModelConfig) -> bool:
    return config.block == "sequential" and config.d_mlp > 0


@torch.no_grad()
def test_parts_add_up_to_the_stream(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    _, cache = run_with_cache(make_model(variant), tokens)
    for heads, neurons in product((False, True), repeat=2):
        cut = {"heads": heads, "neurons": neurons}
        assert_same(cache.decompose_resid(**cut).total, cache["resid_post", -1])
        for layer in range(variant.n_layers):
            assert_same(cache.decompose_resid(layer, **cut).total, cache["resid_pre", layer])
            if has_mid(variant):
                assert_same(cache.decompose_resid(layer, incl_mid=True, **cut).total, cache["resid_mid", layer])


@torch.no_grad()
def test_labels_say_what_each_part_is(make_model: MakeModel, tiny_config: ModelConfig, tokens: Tensor) -> None:
    model = make_model(tiny_config)
    _, cache = run_with_cache(model, tokens)
    assert cache.decompose_resid().labels == ("embed", "pos_embed", "L0 attn", "L0 mlp", "L1 attn", "L1 mlp")
    assert cache.decompose_resid(-1).labels == ("embed", "pos_embed", "L0 attn", "L0 mlp")
    assert cache.decompose_resid(mode="mlp").labels == ("L0 mlp", "L1 mlp")
    assert cache.accumulated_resid(incl_mid=True).labels == ("L0 pre", "L0 mid", "L1 pre", "L1 mid", "final")
    fine = cache.decompose_resid(1, heads=True, neurons=True)
    assert fine.labels[2:8] == ("L0H0", "L0H1", "L0H2", "L0H3", "L0 b_O", "L0N0")
    assert fine.labels[-1] == "L0 b_out"
    W_O = model.blocks[0].attn.W_O  # written out: the columns of head 2 times its z
    assert_same(fine["L0H2"], cache["z", 0][:, :, 2] @ W_O.weight[:, 8:12].T)
    assert_same(fine["L0N5"], cache["mlp.post", 0][..., 5:6] * model.blocks[0].mlp.W_out.weight[:, 5])
    assert_same(fine["L0 b_O"], W_O.bias.expand(2, 9, -1))
    assert_same(cache.decompose_resid()["pos_embed"][1], model.embed.pos_embed.W_pos[:9])


@torch.no_grad()
def test_positions_of_attention_alone_are_no_part_of_the_stream(make_model: MakeModel, make_tokens: MakeTokens) -> None:
    config = ModelConfig(d_vocab=31, n_ctx=12, n_layers=1, n_heads=2, d_model=8, position="attention_only", d_mlp=0)
    _, cache = run_with_cache(make_model(config), make_tokens())
    assert "pos_embed" in cache
    assert cache.decompose_resid().labels == ("embed", "L0 attn")


@torch.no_grad()
def test_streams_are_those_of_the_run(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    _, cache = run_with_cache(make_model(variant), tokens)
    stack = cache.accumulated_resid()
    for layer in range(variant.n_layers):
        assert torch.equal(stack[f"L{layer} pre"], cache["resid_pre", layer])
    assert torch.equal(stack["final"], cache["resid_post", -1])
    assert cache.accumulated_resid(1).labels == ("L0 pre", "L1 pre")


@torch.no_grad()
@pytest.mark.parametrize("pos", [3, -1, [0, 5]])
def test_some_positions_are_those_of_all(
    make_model: MakeModel, tiny_config: ModelConfig, tokens: Tensor, pos: int | list[int]
) -> None:
    model = make_model(tiny_config)
    _, cache = run_with_cache(model, tokens)
    _, few = run_with_cache(model, tokens, pos=pos)
    places = [pos] if isinstance(pos, int) else pos
    direction = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    for of in (cache.decompose_resid, few.decompose_resid):
        part = of(heads=True, neurons=True, apply_ln=True, pos=pos)
        assert_same(part.values, cache.decompose_resid(heads=True, neurons=True, apply_ln=True).values[:, :, places])
    for project in (residual.head_projections, lambda *given, **options: residual.neuron_projections(*given, 1, **options)):
        assert_same(project(few, direction).values, project(cache, direction).values[:, :, places])
        assert_same(project(few, direction, pos=places[:1]).values, project(cache, direction).values[:, :, places[:1]])
    sources = residual.source_projections(cache, direction, 1, pos=pos)
    assert_same(sources.values, residual.source_projections(cache, direction, 1).values[:, :, places])
    with pytest.raises(ValueError, match="sources are all positions"):
        residual.source_projections(few, direction, 1)


@torch.no_grad()
def test_positions_of_rows_that_differ_in_length(make_model: MakeModel, tiny_config: ModelConfig, tokens: Tensor) -> None:
    _, cache = run_with_cache(make_model(tiny_config), tokens, lengths=[9, 6])
    _, few = run_with_cache(make_model(tiny_config), tokens, lengths=[9, 6], pos=[-1, 2])
    direction = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(5))

    def at_ends(x: Tensor) -> Tensor:
        return torch.stack([x[:, 0, [8, 2]], x[:, 1, [5, 2]]], dim=1)

    for of in (cache, few):
        for record in (of.accumulated_resid, of.decompose_resid):
            for apply_ln in (False, True):
                found = record(apply_ln=apply_ln, pos=[-1, 2])
                assert found.positions == (-1, 2)
                assert_same(found.values, at_ends(getattr(cache, record.__name__)(apply_ln=apply_ln).values))
        heads = residual.head_projections(of, direction, pos=[-1, 2]).values
        assert_same(heads, at_ends(residual.head_projections(cache, direction).values))
    sources = residual.source_projections(cache, direction, 1, pos=[-1, 2]).values
    assert_same(sources, at_ends(residual.source_projections(cache, direction, 1).values))


@pytest.mark.parametrize("is_edited", [False, True])
def test_weights_that_changed_since_are_refused(
    make_model: MakeModel, tiny_config: ModelConfig, tokens: Tensor, is_edited: bool
) -> None:
    model, direction = make_model(tiny_config), torch.ones(16, dtype=torch.float64)
    _, cache = run_with_cache(model, tokens, edits=[edits.zero("embed", pos=3)] if is_edited else [])
    whole = cache.decompose_resid()
    asked: list[Callable[[], object]] = [
        lambda: cache.decompose_resid(heads=True),
        lambda: cache.decompose_resid(neurons=True),
        lambda: cache.decompose_resid(apply_ln=True),
        lambda: cache.apply_ln(whole),
        lambda: cache.to(dtype=torch.float32).apply_ln(whole, scale="own"),
        lambda: residual.head_projections(cache, direction),
        lambda: residual.neuron_projections(cache, direction, 0),
        lambda: residual.source_projections(cache, direction, 0),
    ]
    for ask in asked:
        ask()
    with torch.no_grad():
        model.blocks[0].attn.W_O.weight.mul_(2)
    for ask in asked if is_edited else [*asked, lambda: cache["result", 0]]:
        with pytest.raises(ValueError, match="the model's weights have changed since this run"):
            ask()
    assert torch.equal(cache.decompose_resid().values, whole.values)  # of what was recorded alone


@torch.no_grad()
def test_norms_of_parts_add_up_to_the_norm_of_the_stream(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(variant)
    _, cache = run_with_cache(model, tokens)
    normed = cache.decompose_resid(heads=True, apply_ln=True)
    assert_same(normed.total, model.unembed.ln_final(cache["resid_post", -1]))
    bias = getattr(model.unembed.ln_final, "bias", None)
    assert (normed.labels[-1] == "norm bias") == (bias is not None)
    for layer in range(variant.n_layers):
        assert_same(cache.decompose_resid(layer, apply_ln=True).total, model.blocks[layer].ln1(cache["resid_pre", layer]))
        if has_mid(variant):
            found = cache.decompose_resid(layer, incl_mid=True, apply_ln=True).total
            assert_same(found, model.blocks[layer].ln2(cache["resid_mid", layer]))


@torch.no_grad()
def test_norms_of_streams(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(variant)
    _, cache = run_with_cache(model, tokens)
    streams, norm = cache.accumulated_resid(), model.unembed.ln_final
    own = cache.apply_ln(streams, scale="own")
    assert_same(own.values, torch.stack([norm(stream) for stream in streams.values]))
    frozen = cache.apply_ln(streams)
    assert_same(frozen["final"], norm(cache["resid_post", -1]))
    assert_same(frozen.values, cache.accumulated_resid(apply_ln=True).values)
    if not isinstance(norm, NoNorm):
        x = streams["L0 pre"]
        x = x - x.mean(-1, keepdim=True) if variant.norm == "layernorm" else x
        bias = 0 if norm.bias is None else norm.bias
        assert_same(frozen["L0 pre"], x / cache["ln_final.scale"] * norm.weight + bias)


@torch.no_grad()
def test_some_parts_get_no_bias_of_the_norm(make_model: MakeModel, tiny_config: ModelConfig, tokens: Tensor) -> None:
    _, cache = run_with_cache(make_model(tiny_config), tokens)
    whole = cache.decompose_resid(apply_ln=True)
    some = cache.decompose_resid(mode="attn", apply_ln=True)
    assert some.labels == ("L0 attn", "L1 attn")
    assert_same(some["L1 attn"], whole["L1 attn"])


@torch.no_grad()
def test_edits_of_the_stream_are_a_part_of_their_own(make_model: MakeModel, tiny_config: ModelConfig, tokens: Tensor) -> None:
    vector = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    edit = edits.add("blocks.0.resid_post", vector, pos=4)
    _, cache = run_with_cache(make_model(tiny_config), tokens, edits=[edit, edits.zero("blocks.1.attn.z", head=1)])
    stack = cache.decompose_resid(heads=True)
    assert_same(stack.total, cache["resid_post", -1])
    expected = torch.zeros(2, 9, 16, dtype=torch.float64)
    expected[:, 4] = vector
    assert_same(stack["edits"], expected)
    assert not stack["L1H1"].any()


@torch.no_grad()
def test_projections_are_those_of_whole_vectors(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(variant)
    _, cache = run_with_cache(model, tokens)
    generator = torch.Generator().manual_seed(2)
    one, several, of_rows = (torch.randn(*shape, 16, dtype=torch.float64, generator=generator) for shape in [(), (3,), (2, 3)])
    whole = cache.decompose_resid(heads=True, neurons=True)
    for directions in (one, several, of_rows):
        expected = whole.values @ (directions.mT if directions.ndim > 1 else directions)
        assert_same(residual.project(whole, directions).values, expected)
        found = [residual.head_projections(cache, directions)]
        if variant.d_mlp:
            found += [residual.neuron_projections(cache, directions, layer) for layer in range(variant.n_layers)]
        for each in found:
            assert_same(each.values, expected[[whole.labels.index(label) for label in each.labels]])
        for layer in range(variant.n_layers):
            heads = residual.head_projections(cache, directions, layer)
            sources = residual.source_projections(cache, directions, layer)
            summed = sources.values.sum(dim=3 if directions.ndim == 1 else -2)
            assert sources.labels == heads.labels
            assert_same(summed, heads.values)


@torch.no_grad()
def test_sources_are_attention_times_values(make_model: MakeModel, tokens: Tensor) -> None:
    config = ModelConfig(d_vocab=31, n_ctx=12, n_layers=2, n_heads=4, n_kv_heads=2, d_model=16, position="rotary")
    model = make_model(config)
    _, cache = run_with_cache(model, tokens)
    direction = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    found = residual.source_projections(cache, direction, 1)["L1H3"]
    W_O = model.blocks[1].attn.W_O.weight
    for row, query, key in [(0, 5, 2), (1, 8, 8), (1, 3, 0)]:
        written = cache["pattern", 1][row, 3, query, key] * cache["v", 1][row, key, 1] @ W_O[:, 12:16].T
        assert_same(found[row, query, key], written @ direction)
    assert not found[0, 2, 3:].any()


class _Largest(TorchDispatchMode):
    """The most numbers that any operation returned."""

    n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.n = max(self.n, result.numel()) if isinstance(result, Tensor) else self.n
        return result


@torch.no_grad()
def test_projecting_heads_forms_no_vector_of_each(make_model: MakeModel, make_tokens: MakeTokens) -> None:
    config = ModelConfig(d_vocab=31, n_ctx=64, n_layers=1, n_heads=4, d_model=64)
    _, cache = run_with_cache(make_model(config), make_tokens(2, 64), ["blocks.*.attn.z", "blocks.*.mlp.post"])
    with _Largest() as largest:
        residual.head_projections(cache, torch.ones(64, dtype=torch.float64))
        residual.neuron_projections(cache, torch.ones(64, dtype=torch.float64), 0)
    assert largest.n <= cache["mlp.post", 0].numel()  # all heads' vectors would be 2 * 64 * 4 * 64, all neurons' more
    with _Largest() as largest:
        residual.head_projections(cache, torch.ones(64, dtype=torch.float64))
    assert largest.n <= cache["z", 0].numel()


@torch.no_grad()
def test_directions_of_logits(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(variant)
    logits, cache = run_with_cache(model, tokens)
    assert logits is not None
    scale = 1 if variant.norm == "none" else cache["ln_final.scale"]
    stream = cache["resid_post", -1]
    found = stream @ residual.logit_directions(model, [3, 5], [6, 6]).T / scale + residual.logit_bias(model, [3, 5], [6, 6])
    assert_same(found, logits[..., [3, 5]] - logits[..., [6]])
    alone = stream @ residual.logit_directions(model, 2).T / scale + residual.logit_bias(model, 2)
    assert_same(alone, logits[..., [2]])


def test_what_cannot_be_is_refused(make_model: MakeModel, tiny_config: ModelConfig, tokens: Tensor) -> None:
    model = make_model(tiny_config)
    _, cache = run_with_cache(model, tokens)
    with pytest.raises(ValueError, match="there is no position 9; there are 9"):
        cache.decompose_resid(pos=9)
    with pytest.raises(ValueError, match="no layer 2"):
        cache.decompose_resid(2)
    with pytest.raises(ValueError, match="incl_mid is for"):
        cache.decompose_resid(incl_mid=True)
    with pytest.raises(KeyError, match="no component 'L0 attention'; there are embed"):
        cache.decompose_resid()["L0 attention"]
    with pytest.raises(ValueError, match="no logit of token 31; there are 31"):
        residual.logit_directions(model, 31)
    with pytest.raises(ValueError, match="1 components and 0 labels"):
        residual.Stack(torch.zeros(1, 2, 3, 4), ())
    _, few = run_with_cache(model, tokens, "blocks.*.attn_out", pos=2)
    with pytest.raises(KeyError, match="'embed' was not recorded"):
        few.decompose_resid()
    with pytest.raises(ValueError, match="position 3 was not kept"):
        few.decompose_resid(mode="attn", pos=3)
    assert few.decompose_resid(mode="attn").positions == (2,)
    with pytest.raises(KeyError, match=r"ln_final.scale"):
        few.decompose_resid(mode="attn", apply_ln=True)


def test_a_parallel_block_has_no_norm_of_the_mlp(make_model: MakeModel, make_tokens: MakeTokens) -> None:
    config = ModelConfig(d_vocab=31, n_ctx=12, n_layers=1, n_heads=2, d_model=8, block="parallel")
    _, cache = run_with_cache(make_model(config), make_tokens())
    with pytest.raises(ValueError, match="attention and MLP read the same one"):
        cache.apply_ln(cache.accumulated_resid(), 0, before="mlp")


def test_a_stack_that_would_not_fit_is_refused(
    make_model: MakeModel, tiny_config: ModelConfig, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cache = run_with_cache(make_model(tiny_config), tokens)
    monkeypatch.setattr("cutaway.interp.residual.decomposition.free_memory_gib", lambda device: 1e-6)
    with pytest.raises(ValueError, match=r"components at 9 positions take .* GiB .*: give fewer positions"):
        cache.decompose_resid(neurons=True)
