"""Edits, generation under them and gradients are what hooks by hand are, and nothing of them is left on the model."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from tests.interp.models import EXACT, small_model, two_runs
from torch import Tensor

from cutaway import edits, gradients, means, metrics, run_with_cache, run_with_edits, sweep
from cutaway.interp.editing import row_lengths
from cutaway.interp.edits import Edit
from cutaway.interp.generating import EditedTransformer, generate_with_edits
from cutaway.language_model import LanguageModel
from cutaway.tokenizers import CharTokenizer


def by_hand(name: str, change: Callable[[Tensor], object]) -> dict[str, Callable[[Tensor, str], Tensor]]:
    """A plain hook that changes a copy in place."""

    def hook(x: Tensor, _name: str) -> Tensor:
        x = x.clone()
        change(x)
        return x

    return {name: hook}


def basis() -> Tensor:
    return torch.linalg.qr(torch.randn(32, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))[0].T


def _project_out(x: Tensor) -> None:
    x -= x @ basis().T @ basis()


def _swap(x: Tensor) -> None:
    x += (torch.ones(32).double() - x) @ basis().T @ basis()


def _zero_heads(x: Tensor) -> None:
    x[:, -1, 0] = 0
    x[:, -1, 2] = 0


def _halve(x: Tensor) -> None:
    x[:, 1] *= 0.5
    x[:, 4] *= 0.5


def _set_neurons(x: Tensor) -> None:
    x[:, :, 3], x[:, :, 5] = 1.0, 2.0


def _add_at_3(x: Tensor) -> None:
    x[:, 3] += torch.arange(32.0).double()


def _turn_rows(x: Tensor) -> None:
    x[:, 2] = x[:, 2].flip(0)


CASES: dict[str, tuple[Edit, Callable[[Tensor], object]]] = {
    "zero a head": (edits.zero("blocks.1.attn.z", head=2), lambda x: x[:, :, 2].zero_()),
    "zero heads at a position": (edits.zero("blocks.1.attn.z", head=[0, 2], pos=-1), _zero_heads),
    "scale": (edits.scale("blocks.0.mlp_out", 0.5, pos=[1, 4]), _halve),
    "neurons": (edits.replace("blocks.1.mlp.post", torch.tensor([1.0, 2.0]).double(), index=[3, 5]), _set_neurons),
    "add": (edits.add("blocks.2.resid_pre", torch.arange(32.0).double(), pos=3), _add_at_3),
    "project": (edits.project("blocks.1.resid_mid", basis() * 3), _project_out),
    "swap": (edits.swap("blocks.1.resid_mid", basis(), torch.ones(32).double()), _swap),
    "pattern": (edits.zero("blocks.1.attn.pattern", head=1, pos=5), lambda x: x[:, 1, 5].zero_()),
    "knock out": (edits.knock_out(1, [(5, 3), (5, 4)], head=1)[0], lambda x: x[:, 1, 5, 3:5].fill_(-torch.inf)),
    "function": (edits.apply("blocks.0.attn_out", lambda x: x.flip(0), pos=2), _turn_rows),
}


@pytest.mark.parametrize("case", CASES)
def test_an_edit_is_what_a_hook_by_hand_is(case: str) -> None:
    edit, change = CASES[case]
    model = small_model()
    tokens, _ = two_runs()
    expected = model(tokens, hooks=by_hand(edit.name, change))
    torch.testing.assert_close(run_with_edits(model, tokens, [edit]), expected, **EXACT)
    assert not torch.allclose(expected, model(tokens))


@pytest.mark.parametrize("case", [case for case in CASES if case != "function"])
def test_edits_travel_as_json(case: str) -> None:
    edit, _ = CASES[case]
    model = small_model()
    tokens, _ = two_runs()
    back = Edit.from_dict(json.loads(json.dumps(edit.to_dict())))
    assert str(back) == str(edit)
    assert torch.equal(run_with_edits(model, tokens, [back]), run_with_edits(model, tokens, [edit]))


def test_json_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(ValueError, match="calls a Python function, which JSON cannot hold"):
        CASES["function"][0].to_dict()
    with pytest.raises(ValueError, match="an edit's kind is 'apply'; expected one of zero"):
        Edit.from_dict({"kind": "apply", "name": "embed"})
    with pytest.raises(ValueError, match="an edit has no field heads"):
        Edit.from_dict({"kind": "zero", "name": "embed", "heads": 3})
    with pytest.raises(ValueError, match="not a tensor written as dtype, shape and base64"):
        Edit.from_dict({"kind": "replace", "name": "embed", "value": {"dtype": "float32", "shape": [3], "base64": "AAAA"}})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "replace"}, "of kind 'replace' of 'embed' lacks its value"),
        ({"kind": "project"}, "of kind 'project' of 'embed' lacks its directions"),
        ({"kind": "swap"}, "of kind 'swap' of 'embed' lacks its directions and its value"),
        ({"kind": "scale", "factor": "twice"}, "an edit's factor is 'twice'; expected a number"),
    ],
)
def test_json_of_half_an_edit_is_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Edit.from_dict({"name": "embed", **values})


def test_knock_outs_may_overlap() -> None:
    model = small_model()
    tokens, _ = two_runs()

    def by_mask(x: Tensor) -> None:
        x[:, :, 5, 1:3] = -torch.inf

    expected = model(tokens, hooks=by_hand("blocks.1.attn.attn_scores", by_mask))
    one, two = edits.knock_out(1, [(5, 1)]), edits.knock_out(1, [(5, 1), (5, 2), (5, 1)])
    for knocked in (two, [*one, *two], [*two, *edits.knock_out(1, [(-4, -8)])]):
        torch.testing.assert_close(run_with_edits(model, tokens, knocked), expected, **EXACT)
    score = metrics.logit_diff(3, 7)
    torch.testing.assert_close(sweep(model, tokens, [two], score, base_edits=one)[0], score(expected), atol=1e-10, rtol=0)


def test_patches_between_prompts_of_different_length() -> None:
    model = small_model()
    tokens, _ = two_runs()
    longer = torch.randint(0, 50, (2, 11), generator=torch.Generator().manual_seed(5))
    _, cache = run_with_cache(model, longer)
    edit = edits.patch("blocks.1.resid_post", cache, pos=[4, 8], src_pos=[6, 10])

    def put(x: Tensor) -> None:
        x[:, 4], x[:, 8] = cache["resid_post", 1][:, 6], cache["resid_post", 1][:, 10]

    expected = model(tokens, hooks=by_hand("blocks.1.resid_post", put))
    torch.testing.assert_close(run_with_edits(model, tokens, [edit]), expected, **EXACT)
    with pytest.raises(ValueError, match=r"the value has shape \(2, 11, 32\); expected \(2, 9, 32\)"):
        run_with_edits(model, tokens, [edits.patch("blocks.1.resid_post", cache)])
    with pytest.raises(ValueError, match="give pos too"):
        edits.patch("blocks.1.resid_post", cache, src_pos=[3])


def test_edits_that_make_no_sense_are_refused() -> None:
    model = small_model()
    tokens, _ = two_runs()
    with pytest.raises(ValueError, match="is of one: write an edit for each"):
        edits.zero("blocks.*.attn.z")
    with pytest.raises(ValueError, match="has no heads"):
        edits.zero("blocks.0.resid_post", head=1)
    with pytest.raises(ValueError, match="the query does not see one of these keys"):
        run_with_edits(model, tokens, edits.knock_out(0, [(3, 5)]))
    run_with_edits(small_model("bidirectional"), tokens, edits.knock_out(0, [(3, 5)]))
    with pytest.raises(ValueError, match="names a place twice"):
        run_with_edits(model, tokens, [edits.zero("blocks.0.attn.z", pos=[8, -1])])
    with pytest.raises(ValueError, match="is empty; give at least one place"):
        edits.zero("blocks.0.attn.z", pos=[])
    with pytest.raises(ValueError, match="do not go together"):
        edits.Edit(kind="zero", name="blocks.0.attn.k", head=0, query_head=1)
    with pytest.raises(ValueError, match=r"expected two axes, batch and pos"):
        row_lengths(model, tokens[0])
    with pytest.raises(ValueError, match=r"computes no 'blocks\.x\.attn\.z'"):
        run_with_edits(model, tokens, [edits.zero("blocks.x.attn.z")])
    with pytest.raises(ValueError, match="the query would see nothing at all"):
        run_with_edits(model, tokens, edits.knock_out(0, [(0, 0)]))
    with pytest.raises(ValueError, match="the directions have 31 coordinates and the activation 32"):
        run_with_edits(model, tokens, [edits.project("blocks.0.resid_post", torch.ones(31).double())])
    with pytest.raises(ValueError, match="all zero"):
        edits.project("blocks.0.resid_post", torch.zeros(32).double())
    with pytest.raises(ValueError, match=r"the function returned \(1,\) torch.float32; expected"):
        run_with_edits(model, tokens, [edits.apply("blocks.0.resid_post", lambda x: torch.zeros(1), pos=2)])


def test_gradients_equal_finite_differences() -> None:
    model = small_model("rotary, grouped, gated")
    tokens, _ = two_runs()
    metric = metrics.logit_diff(3, 7)
    values, cache, grads = gradients(model, tokens, metric, ["blocks.1.attn.z", "embed"])
    torch.testing.assert_close(values, metric(model(tokens)).detach(), **EXACT)
    step = 1e-5
    for name, place in (("blocks.1.attn.z", (0, 4, 2, 3)), ("embed", (1, 2, 9))):
        ends = []
        for sign in (1, -1):

            def nudge(x: Tensor, place: tuple[int, ...] = place, sign: int = sign) -> None:
                x[place] += sign * step

            ends.append(metric(model(tokens, hooks=by_hand(name, nudge)))[place[0]].item())
        assert grads[name][place].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-8)
    assert set(cache) == set(grads)
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())


def test_the_model_keeps_no_trace() -> None:
    model = small_model()
    tokens, _ = two_runs()
    before = set(vars(model)), model(tokens)
    run_with_edits(model, tokens, [CASES["project"][0]])
    run_with_cache(model, tokens)
    gradients(model, tokens, metrics.logit_diff(3, 7), "blocks.*.attn.z")
    assert set(vars(model)) == before[0]
    assert torch.equal(model(tokens), before[1])


def test_generation_under_edits() -> None:
    characters = CharTokenizer.fit("abcdefghijklmnopqrstuvwxyz .,")
    lm = LanguageModel(small_model(), characters)
    edit = edits.zero("blocks.1.attn.z", head=[0, 1])
    options = {"max_new_tokens": 6, "top_k": 1}
    text = generate_with_edits(lm, "abc d", [edit], **options)
    tokens = lm.tokens("abc d")
    for _ in range(6):  # the oracle: one whole edited run a token
        logits = run_with_edits(lm.model, tokens, [edit])[:, -1, : characters.d_vocab]
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=1)
    assert text == lm.text(tokens[0])
    unedited_prompt = generate_with_edits(lm, "abc d", [edit], edit_prompt=False, **options)
    tokens = lm.tokens("abc d")
    for _ in range(6):
        later = [] if tokens.shape[1] == 5 else [edits.zero(edit.name, head=[0, 1], pos=list(range(5, tokens.shape[1])))]
        logits = run_with_edits(lm.model, tokens, later)[:, -1, : characters.d_vocab]
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=1)
    assert unedited_prompt == lm.text(tokens[0])
    with pytest.raises(ValueError, match="count positions from 0"):
        EditedTransformer(lm.model, [edits.zero("blocks.1.attn.z", pos=-1)])
    with pytest.raises(ValueError, match="inside the blocks"):
        EditedTransformer(lm.model, [edits.zero("embed")])


def test_generation_past_the_context_refuses_edits_that_would_move() -> None:
    lm = LanguageModel(small_model(), CharTokenizer.fit("abcdefghijklmnopqrstuvwxyz .,"))
    everywhere, at_6 = (edits.zero("blocks.1.attn.z", head=0, pos=pos) for pos in (None, 6))
    for edit, edits_prompt in ((everywhere, False), (at_6, True)):
        generate_with_edits(lm, "abc d", [edit], edit_prompt=edits_prompt, max_new_tokens=11)
        with pytest.raises(ValueError, match="5 tokens of the prompt and 12 new ones are more than the context of 16, past which"):
            generate_with_edits(lm, "abc d", [edit], edit_prompt=edits_prompt, max_new_tokens=12)
    with pytest.warns(UserWarning, match="past the context of 16 tokens"):
        generate_with_edits(lm, "abc d", [everywhere], max_new_tokens=14)


def test_a_patch_finds_the_positions_that_a_cache_kept() -> None:
    model = small_model()
    tokens, other = two_runs()
    _, whole = run_with_cache(model, other)
    _, part = run_with_cache(model, other, pos=[5, 8])
    for pos in (5, -1, [8, 5]):
        expected = run_with_edits(model, tokens, [edits.patch("blocks.1.resid_pre", whole, pos=pos)])
        torch.testing.assert_close(
            run_with_edits(model, tokens, [edits.patch("blocks.1.resid_pre", part, pos=pos)]), expected, **EXACT
        )
    with pytest.raises(ValueError, match="position 1 was not kept; those that were are 5, 8"):
        edits.patch("blocks.1.resid_pre", part, pos=1)
    with pytest.raises(ValueError, match="kept the positions 5, 8 alone: give pos"):
        edits.patch("blocks.1.resid_pre", part)
    with pytest.raises(ValueError, match="there is no position 20"):
        whole.position_axis(20)


def test_a_patch_from_the_end_of_shorter_rows() -> None:
    model = small_model()
    _, other = two_runs()
    _, cache = run_with_cache(model, other, lengths=[9, 6])
    edit = edits.patch("blocks.1.resid_pre", cache, pos=-1)
    assert edit.value is not None
    torch.testing.assert_close(edit.value, torch.stack([cache["resid_pre", 1][0, 8], cache["resid_pre", 1][1, 5]]), **EXACT)


def test_an_edited_run_and_gradients_derive_nothing() -> None:
    model = small_model()
    tokens, _ = two_runs()
    _, cache = run_with_cache(model, tokens, "blocks.1.attn.z", edits=[edits.zero("blocks.1.attn.result", head=1)])
    _, _, grads = gradients(model, tokens, metrics.logit_diff(3, 7), "blocks.1.attn.z")
    for each in (cache, grads):
        assert ("result", 1) not in each


def test_positions_as_an_activation_of_every_row() -> None:
    model = small_model()
    tokens, other = two_runs()
    _, cache = run_with_cache(model, other)
    halved = [edits.scale("pos_embed", 0.5, pos=3)]
    vectors = model.embed.pos_embed.W_pos  # type: ignore[union-attr]
    by_hand = vectors[:9].clone()
    by_hand[3] *= 0.5
    expected = model(tokens, hooks={"pos_embed": lambda x, name: by_hand})
    torch.testing.assert_close(run_with_edits(model, tokens, halved), expected, **EXACT)
    torch.testing.assert_close(run_with_cache(model, tokens, "logits", edits=halved)[1]["logits"], expected, **EXACT)
    torch.testing.assert_close(run_with_edits(model, tokens, [edits.patch("pos_embed", cache)]), model(tokens), **EXACT)
    assert means(model, tokens, "pos_embed", over_positions=False)["pos_embed"].shape == (9, 32)
    assert gradients(model, tokens, metrics.logit_diff(3, 7), "pos_embed")[2]["pos_embed"].shape == (2, 9, 32)


def test_gradients_read_each_row_s_own_end() -> None:
    model = small_model()
    tokens, _ = two_runs()
    _, _, padded = gradients(model, tokens, metrics.logit_diff(3, 7), "blocks.1.attn.z", lengths=[9, 6])
    _, _, alone = gradients(model, tokens[1:, :6], metrics.logit_diff(3, 7), "blocks.1.attn.z")
    torch.testing.assert_close(padded["z", 1][1, :6], alone["z", 1][0], **EXACT)
    assert not padded["z", 1][1, 6:].any()


def test_a_function_keeps_its_batch_axis_with_lengths() -> None:
    model = small_model()
    tokens, _ = two_runs()

    def third(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, 3] = 0
        return x

    edit = edits.apply("blocks.1.resid_pre", third)
    torch.testing.assert_close(
        run_with_edits(model, tokens, [edit], lengths=[9, 8])[0], run_with_edits(model, tokens, [edit])[0], **EXACT
    )


def test_generation_with_values_at_several_positions() -> None:
    lm = LanguageModel(small_model(), CharTokenizer.fit("abcdefghijklmnopqrstuvwxyz .,"))
    value = torch.randn(2, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    edit = edits.replace("blocks.1.resid_pre", value, pos=[2, 6])
    text = generate_with_edits(lm, "abc d", [edit], max_new_tokens=4, top_k=1)
    tokens = lm.tokens("abc d")
    for _ in range(4):
        seen = [edit] if tokens.shape[1] > 6 else [edits.replace(edit.name, value[:1], pos=[2])]
        logits = run_with_edits(lm.model, tokens, seen)[:, -1, : lm.tokenizer.d_vocab]
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=1)
    assert text == lm.text(tokens[0])
    with pytest.raises(ValueError, match="there is no head 9"):
        EditedTransformer(lm.model, [edits.zero("blocks.1.attn.z", head=9)])
