"""One function however it is computed: in parts, with a cache, in a batch, fused, recorded, resumed."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.hooks import recording
from cutaway.model import Block, KVCache, Transformer, attend, causal_mask, fused_attend

MakeModel = Callable[..., Transformer]
MakeTokens = Callable[..., Tensor]

# float64 keeps 16 digits: the same sums in another order, through two or three layers with logits of size 1 to 10
same = partial(torch.testing.assert_close, rtol=0, atol=1e-12)


def empty_cache(model: Transformer, batch: int = 2, n_slots: int | None = None) -> KVCache:
    return KVCache(model.config, batch=batch, n_slots=n_slots, dtype=torch.float64)


# --- in parts


def test_three_parts_make_the_forward_pass(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(variant)
    assert torch.equal(model.unembed(model.run_blocks(model.embed(tokens))), model(tokens))


def test_a_run_goes_on_from_any_layer(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(variant)
    hooks, activations = recording("blocks.*.resid_pre")
    logits = model(tokens, hooks=hooks)
    for layer in range(variant.n_layers):
        resid = model.run_blocks(activations[f"blocks.{layer}.resid_pre"], range(layer, variant.n_layers))
        assert torch.equal(model.unembed(resid), logits)


def test_a_run_stops_after_any_layer(tiny_model: Transformer, tokens: Tensor) -> None:
    hooks, activations = recording("blocks.0.resid_post")
    tiny_model(tokens, hooks=hooks)
    assert torch.equal(tiny_model.run_blocks(tiny_model.embed(tokens), range(1)), activations["blocks.0.resid_post"])


def test_positions_are_those_counted(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model, logits = make_model(variant), make_model(variant)(tokens)
    same(model(tokens, positions=torch.arange(9)), logits)
    same(model(tokens, positions=torch.arange(9).expand(2, 9)), logits)


def test_recorded_is_unhooked(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(variant)
    hooks, activations = recording("*")
    same(model(tokens, hooks=hooks), model(tokens))  # explicit attention and norms in place of the fused
    assert activations["logits"].shape == (2, 9, variant.d_vocab_out)


def test_looking_where_nothing_changes_is_bitwise_free(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(variant)
    hooks, _ = recording("embed", "blocks.*.resid_*", "*.q", "*.z", "*_out", "logits")
    assert torch.equal(model(tokens, hooks=hooks), model(tokens))


# --- in a batch


def test_batched_is_single(variant: ModelConfig, make_model: MakeModel, make_tokens: MakeTokens) -> None:
    model, tokens = make_model(variant), make_tokens(batch=5)
    same(torch.cat([model(row[None]) for row in tokens]), model(tokens))


def test_batches_may_have_several_axes(variant: ModelConfig, make_model: MakeModel, make_tokens: MakeTokens) -> None:
    model, tokens = make_model(variant), make_tokens(batch=6)
    same(model(tokens.unflatten(0, (2, 3))), model(tokens).unflatten(0, (2, 3)))


def test_padding_on_the_left_changes_nothing(variant: ModelConfig, make_model: MakeModel, make_tokens: MakeTokens) -> None:
    model, tokens = make_model(variant), make_tokens(batch=3)
    n_pads = torch.tensor([0, 2, 5])
    positions = (torch.arange(9) - n_pads[:, None]).clamp(min=0)
    is_text = torch.arange(9) >= n_pads[:, None]
    logits = model(tokens, positions=positions, mask=is_text[:, None, None, :])
    for row, n in enumerate(n_pads.tolist()):
        same(logits[row, n:], model(tokens[row : row + 1, n:])[0])
    assert logits.isfinite().all()  # a pad that may see nothing reads zero


def test_padding_on_the_right_changes_nothing(causal_variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(causal_variant)
    same(model(tokens)[:, :4], model(tokens[:, :4]))


# --- with a cache


def test_token_by_token_is_all_at_once(causal_variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(causal_variant)
    kv = empty_cache(model)
    steps = [model(tokens[:, pos : pos + 1], kv=kv) for pos in range(9)]
    same(torch.cat(steps, dim=1), model(tokens))
    assert kv.length() == 9


@pytest.mark.parametrize("chunks", [(9,), (4, 5), (1, 6, 2), (3, 1, 1, 4)], ids=str)
def test_chunk_by_chunk_is_all_at_once(
    causal_variant: ModelConfig, make_model: MakeModel, tokens: Tensor, chunks: tuple[int, ...]
) -> None:
    model = make_model(causal_variant)
    kv = empty_cache(model, n_slots=9)
    same(torch.cat([model(chunk, kv=kv) for chunk in tokens.split(chunks, dim=1)], dim=1), model(tokens))


@pytest.mark.parametrize("n_new", [1, 2], ids=["one at a time", "two at a time"])
def test_rows_of_different_lengths(causal_variant: ModelConfig, make_model: MakeModel, make_tokens: MakeTokens, n_new: int) -> None:
    model, tokens = make_model(causal_variant), make_tokens(batch=3, n_pos=12)
    lengths = torch.tensor([2, 6, 4])
    kv = empty_cache(model, batch=3)
    expected = model(tokens)
    # what fills a shorter row up to the longest is read and written over later; it must never be seen
    prompt = tokens[:, :6].where(torch.arange(6) < lengths[:, None], 0)
    logits = model(prompt, kv=kv)
    for row, length in enumerate(lengths.tolist()):
        same(logits[row, :length], expected[row, :length])
    for start in range(0, 6, n_new):
        positions = lengths[:, None] + start + torch.arange(n_new)
        same(
            model(tokens.gather(1, positions), positions=positions, kv=kv),
            expected.gather(1, positions[..., None].expand(-1, -1, expected.shape[-1])),
        )


def test_a_mask_counts_with_a_cache_too(causal_variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(causal_variant)
    is_seen = torch.ones(9, dtype=torch.bool)
    is_seen[[1, 3]] = False
    expected = model(tokens, mask=is_seen[None])
    kv = empty_cache(model)
    first = model(tokens[:, :5], kv=kv, mask=is_seen[None, :5])
    then = [model(tokens[:, pos : pos + 1], kv=kv, mask=is_seen[None, : pos + 1]) for pos in range(5, 9)]
    same(torch.cat([first, *then], dim=1), expected)


@pytest.mark.parametrize("axes", ["one row of keys", "each row", "each head of each row"])
def test_a_mask_counts_with_rows_at_positions_of_their_own(
    axes: str, causal_variant: ModelConfig, make_model: MakeModel, tokens: Tensor
) -> None:
    model = make_model(causal_variant)
    n_rows, n_heads = len(tokens), causal_variant.n_heads
    mask = torch.rand(n_rows, 9, 9, generator=torch.Generator().manual_seed(4)) > 0.3
    mask = {"one row of keys": mask[0, :1], "each row": mask, "each head of each row": mask[:, None].repeat(1, n_heads, 1, 1)}[axes]
    positions = torch.arange(9).expand(n_rows, -1)
    same(model(tokens, positions=positions, kv=empty_cache(model, batch=n_rows), mask=mask), model(tokens, mask=mask))


def test_rows_can_be_taken_again(causal_variant: ModelConfig, make_model: MakeModel, make_tokens: MakeTokens) -> None:
    model, tokens = make_model(causal_variant), make_tokens(batch=3)
    kv, rows = empty_cache(model, batch=3), torch.tensor([2, 0, 2, 1])
    model(tokens[:, :6], kv=kv)
    kv.select_rows(rows)
    same(model(tokens[rows, 6:], kv=kv), model(tokens)[rows, 6:])


def test_a_run_goes_on_from_a_layer_and_a_position(causal_variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(causal_variant)
    hooks, activations = recording("blocks.*.resid_pre")
    logits = model(tokens, hooks=hooks)
    for layer in range(causal_variant.n_layers):
        for pos in (1, 5, 8):
            kv = empty_cache(model)
            model(tokens[:, :pos], kv=kv)
            resid = activations[f"blocks.{layer}.resid_pre"][:, pos:]
            resid = model.run_blocks(resid, range(layer, causal_variant.n_layers), kv=kv)
            same(model.unembed(resid), logits[:, pos:])


def test_a_prefix_may_be_shared_without_a_copy(causal_variant: ModelConfig, make_model: MakeModel, make_tokens: MakeTokens) -> None:
    """Three variants of what comes after position 5 read one prefix's keys and values, expanded with stride 0."""
    model, tokens = make_model(causal_variant), make_tokens(batch=1)
    block: Block = model.blocks[1]
    keys = "rot_k" if causal_variant.position == "rotary" else "k"
    hooks, activations = recording("blocks.1.resid_pre", f"blocks.1.attn.{keys}", "blocks.1.attn.v")
    model(tokens, hooks=hooks)
    prefix_k, prefix_v = (activations[f"blocks.1.attn.{name}"][:, :5].transpose(1, 2) for name in (keys, "v"))
    resid = activations["blocks.1.resid_pre"].repeat(3, 1, 1)
    resid[:, 5:] += torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def extend_kv(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        shared_k, shared_v = prefix_k.expand(3, -1, -1, -1), prefix_v.expand(3, -1, -1, -1)
        assert shared_k.stride(0) == 0
        return torch.cat([shared_k, k], dim=-2), torch.cat([shared_v, v], dim=-2)

    positions = torch.arange(9)

    def run_block(resid: Tensor, first: int, **how: object) -> Tensor:
        rotation = None if model.rotary is None else model.rotary.rotation(positions[first:])
        offset = None if model.qk_positions is None else model.qk_positions(positions[first:])
        mask = causal_mask(positions[first:], positions)
        out: Tensor = block(resid, mask=mask, rotation=rotation, qk_offset=offset, **how)
        return out

    same(run_block(resid[:, 5:], 5, extend_kv=extend_kv), run_block(resid, 0)[:, 5:])


# --- fused


def masks(q_pos: int, k_pos: int) -> dict[str, Tensor | str | None]:
    random = torch.rand(q_pos, k_pos, generator=torch.Generator().manual_seed(3)) > 0.4
    one_row_sees_nothing = random.clone()
    one_row_sees_nothing[2] = False
    a_row_of_the_batch = torch.ones(2, 1, 1, k_pos, dtype=torch.bool)
    a_row_of_the_batch[1, ..., :2] = False
    return {
        "none": None,
        "causal": "causal",
        "causal as a tensor": torch.ones(q_pos, k_pos, dtype=torch.bool).tril(k_pos - q_pos),
        "random": random,
        "one row sees nothing": one_row_sees_nothing,
        "keys of one row of the batch": a_row_of_the_batch,
        "nothing at all": torch.zeros(q_pos, k_pos, dtype=torch.bool),
    }


@pytest.mark.parametrize("n_kv_heads", [6, 3, 1])
@pytest.mark.parametrize("k_pos", [5, 8], ids=["as many keys", "more keys"])
@pytest.mark.parametrize("mask", masks(5, 5))
def test_fused_is_explicit(mask: str, k_pos: int, n_kv_heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 6, 5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    k, v = torch.randn(2, 2, n_kv_heads, k_pos, 4, generator=generator, dtype=torch.float64, requires_grad=True).unbind()
    allowed = masks(5, k_pos)[mask]
    fused, explicit = fused_attend(q, k, v, allowed), attend(q, k, v, allowed)
    same(fused, explicit)
    probe = torch.randn(fused.shape, generator=generator, dtype=torch.float64)
    for got, expected in zip(*(torch.autograd.grad((z * probe).sum(), [q, k, v]) for z in (fused, explicit)), strict=True):
        same(got, expected)


def test_fused_is_explicit_without_a_batch() -> None:
    q, k, v = torch.randn(3, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    same(fused_attend(q, k, v, "causal"), attend(q, k, v, "causal"))
