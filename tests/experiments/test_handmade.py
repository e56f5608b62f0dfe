"""The models made by hand do what they say, by whole forward passes and plain hooks: each head and neuron is tried alone."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from cutaway.experiments.handmade import HANDMADE, Handmade, Head, Neuron, copying, indirect_object, induction, neuron
from cutaway.hooks import Hook, Hooks, recording
from handmade_runs import ROUNDING, all_heads, built, logit_diff, recorded


def all_neurons(made: Handmade) -> list[Neuron]:
    config = made.model.config
    return [Neuron(layer, index) for layer in range(config.n_layers) for index in range(config.d_mlp)]


def is_rotary(made: Handmade) -> bool:
    """Whether angles are in float32, and scores of about 40 so as exact as that."""
    return made.model.config.position == "rotary"


def z_of(head: Head) -> str:
    return f"blocks.{head.layer}.attn.z"


def set_z(head: Head, value: Tensor | float) -> dict[str, Hook]:
    def put(z: Tensor, _name: str) -> Tensor:
        z = z.clone()
        z[:, :, head.head] = value
        return z

    return {z_of(head): put}


def set_neuron(unit: Neuron, value: Tensor | float) -> dict[str, Hook]:
    def put(post: Tensor, _name: str) -> Tensor:
        post = post.clone()
        post[:, :, unit.index] = value
        return post

    return {f"blocks.{unit.layer}.mlp.post": put}


# --- what the model does


def test_it_answers(made: Handmade) -> None:
    clean, corrupted = recorded(made)["logits"], recorded(made, "corrupted_tokens")["logits"]
    assert torch.equal(clean[:, -1].argmax(dim=-1), made.answers)
    assert torch.equal(corrupted[:, -1].argmax(dim=-1), made.wrong_answers)
    assert made.logit_diff(clean).min() > 9
    assert made.logit_diff(corrupted).max() < -9
    assert (made.answers != made.wrong_answers).all()
    assert len({tuple(row) for row in torch.cat([made.tokens, made.corrupted_tokens]).tolist()}) == 2 * len(made.tokens)


def test_the_circuit_attends_where_it_should(made: Handmade) -> None:
    for head in made.circuit.heads:
        pattern = recorded(made)[f"blocks.{head.layer}.attn.pattern"][:, head.head]  # batch q_pos k_pos
        attended = pattern[range(len(pattern)), made.positions[head], made.sources[head]]
        assert attended.min() >= made.attention - 1e-5
        assert attended.max() < 0.99
        if made.circuit.heads[head] == "previous token":
            torch.testing.assert_close(
                attended, torch.full_like(attended, made.attention), rtol=0, atol=1e-5 if made.leak or is_rotary(made) else 1e-12
            )


@pytest.mark.parametrize("attention", [0.9, 0.99])
@pytest.mark.parametrize("make", [induction, copying, indirect_object, neuron, partial(induction, position="rotary")])
def test_attention_is_a_parameter(make: Callable[..., Handmade], attention: float) -> None:
    made = make(attention=attention)
    hooks, patterns = recording("blocks.*.attn.pattern")
    assert torch.equal(made.model(made.tokens, hooks=hooks)[:, -1].argmax(dim=-1), made.answers)
    for head in made.circuit.heads:
        pattern = patterns[f"blocks.{head.layer}.attn.pattern"][:, head.head]
        attended = pattern[range(len(pattern)), made.positions[head], made.sources[head]]
        assert attention - (1e-4 if is_rotary(made) else 1e-12) <= attended.min()
        assert attended.max() <= 1 - 0.3 * (1 - attention)  # what is left over stays of the size asked for


def test_distractors_attend_to_something_else(made: Handmade) -> None:
    assert set(made.distractors) == set(all_heads(made)) - set(made.circuit.heads)
    n_pos = made.tokens.shape[1]
    here = torch.arange(6, n_pos)
    for head, kind in made.distractors.items():
        pattern = recorded(made)[f"blocks.{head.layer}.attn.pattern"][:, head.head]  # batch q_pos k_pos
        match kind:
            case "uniform":
                expected = torch.full((n_pos, n_pos), 1.0, dtype=torch.float64).tril()
                torch.testing.assert_close(pattern[0], expected / expected.sum(dim=-1, keepdim=True), rtol=0, atol=1e-5)
            case "duplicate":
                assert pattern[:, -1].max() > 0.8  # the last token was there before
            case _:
                keys = {"first": torch.zeros_like(here), "current": here, "previous": here - 1}.get(kind)
                keys = pattern[0, -1].argmax().expand(len(here)) if keys is None else keys  # a fixed one
                torch.testing.assert_close(
                    pattern[:, here, keys], torch.full_like(pattern[:, here, keys], made.attention), rtol=0, atol=1e-4
                )


def test_distractors_are_active(made: Handmade) -> None:
    """They write vectors about as long as a token's, and others for the corrupted prompt."""
    clean, corrupted = recorded(made), recorded(made, "corrupted_tokens")
    for head in made.distractors:
        result, other = (each[f"blocks.{head.layer}.attn.result"][:, :, head.head] for each in (clean, corrupted))
        assert result.norm(dim=-1).mean() > 0.2
        assert (result - other).norm(dim=-1).mean() > 0.15
    for unit in set(all_neurons(made)) - set(made.circuit.neurons):
        post, other = (each[f"blocks.{unit.layer}.mlp.post"][:, :, unit.index] for each in (clean, corrupted))
        assert (post - other).abs().max() > 1e-3


# --- the circuit is all there is


def test_knocking_out_a_head(made: Handmade) -> None:
    """Zero, or the mean over prompts and positions: nothing happens outside the circuit, and inside the answer is lost."""
    clean = logit_diff(made)
    for head in all_heads(made):
        z = torch.cat([recorded(made)[z_of(head)], recorded(made, "corrupted_tokens")[z_of(head)]])[:, :, head.head]
        for value in (0.0, z.mean(dim=(0, 1))):
            change = logit_diff(made, set_z(head, value)) - clean
            if head in made.circuit.heads:
                assert (change < -0.9 * clean).all(), (head, made.circuit.heads[head])
            else:
                assert change.abs().max() <= made.leak + ROUNDING, (head, made.distractors[head])


def test_patching_a_head(made: Handmade) -> None:
    """A head's output from the corrupted run gives the corrupted run's answer if it is of the circuit, and else changes nothing."""
    clean, corrupted = logit_diff(made), logit_diff(made, tokens=made.corrupted_tokens)
    for head in all_heads(made):
        value = recorded(made, "corrupted_tokens")[z_of(head)][:, :, head.head]
        patched = logit_diff(made, set_z(head, value))
        if head in made.circuit.heads:
            assert ((clean - patched) / (clean - corrupted) > 0.97).all(), (head, made.circuit.heads[head])
        else:
            assert (patched - clean).abs().max() <= made.leak + ROUNDING, (head, made.distractors[head])


def test_heads_do_their_part_at_their_positions(made: Handmade) -> None:
    clean, rows = logit_diff(made), range(len(made.tokens))
    for head in made.circuit.heads:
        own, other = (recorded(made, tokens)[z_of(head)][:, :, head.head] for tokens in ("tokens", "corrupted_tokens"))
        here, elsewhere = own.clone(), torch.zeros_like(own)
        here[rows, made.positions[head]] = 0.0
        elsewhere[rows, made.positions[head]] = own[rows, made.positions[head]]
        assert (logit_diff(made, set_z(head, here)) < 0.1 * clean).all(), made.circuit.heads[head]
        assert (logit_diff(made, set_z(head, elsewhere)) > 0.99 * clean).all(), made.circuit.heads[head]
        patched = own.clone()
        for position in (made.positions[head], made.corrupted_positions[head]):
            patched[rows, position] = other[rows, position]
        assert (logit_diff(made, set_z(head, patched)) < -0.95 * clean).all(), made.circuit.heads[head]


def test_neurons(made: Handmade) -> None:
    clean = logit_diff(made)
    for unit in all_neurons(made):
        post = recorded(made, "corrupted_tokens")[f"blocks.{unit.layer}.mlp.post"][:, :, unit.index]
        for value in (0.0, post) if unit in made.circuit.neurons else (post,):  # all others at 0: the next test
            change = logit_diff(made, set_neuron(unit, value)) - clean
            if unit in made.circuit.neurons:
                torch.testing.assert_close(change, -2 * clean, rtol=0, atol=ROUNDING)
            else:
                assert change.abs().max() <= made.leak + ROUNDING, unit


def test_the_circuit_alone_suffices(made: Handmade) -> None:
    """With everything outside of it knocked out at once, every logit difference stays what it was."""
    hooks: dict[str, list[Hook]] = {}
    for head in made.distractors:
        for name, hook in set_z(head, 0.0).items():
            hooks.setdefault(name, []).append(hook)
    for unit in set(all_neurons(made)) - set(made.circuit.neurons):
        for name, hook in set_neuron(unit, 0.0).items():
            hooks.setdefault(name, []).append(hook)
    alone, whole = made.model(made.tokens, hooks=Hooks(hooks)), recorded(made)["logits"]
    difference = (alone - whole).diff(dim=-1).abs().max()  # the common part of all logits may change
    assert difference <= 2 * made.leak + ROUNDING
    assert (alone - whole).abs().max() > 0.01


# --- nothing shows from outside


@pytest.mark.parametrize("make", [induction, copying, indirect_object, neuron])
def test_turning_the_axes_changes_no_answer(make: Callable[..., Handmade]) -> None:
    turned, straight = make(n_prompts=4), make(n_prompts=4, is_rotated=False)
    assert turned.circuit == straight.circuit
    assert torch.equal(turned.tokens, straight.tokens)
    logits, plain = (made.model(made.tokens).diff(dim=-1) for made in (turned, straight))
    torch.testing.assert_close(logits, plain, rtol=0, atol=ROUNDING)
    assert any((weight == 0).double().mean() > 0.9 for weight in straight.model.parameters())


@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm"])
def test_axes_turned_under_a_norm(norm: str) -> None:
    turned, straight = (induction(norm=norm, n_prompts=4, is_rotated=is_rotated) for is_rotated in (True, False))
    difference = logit_diff(turned) - logit_diff(straight)
    assert difference.abs().max() <= turned.leak


def test_no_weight_is_zero(made: Handmade) -> None:
    for name, weight in made.model.named_parameters():
        is_in_pairs = is_rotary(made) and name.split(".")[-2] in ("W_Q", "W_K")  # which a head has a use for or not
        if not name.endswith("bias") and not is_in_pairs:
            assert weight.abs().min() > 0, name
        assert weight.dtype == torch.float64


def test_heads_are_placed_at_random() -> None:
    placed = {tuple(induction(seed=seed, n_prompts=1).circuit.heads) for seed in range(12)}
    assert len(placed) > 4


def test_seeds_repeat() -> None:
    one, again, other = induction(seed=3, n_prompts=3), induction(seed=3, n_prompts=3), induction(seed=4, n_prompts=3)
    assert torch.equal(one.tokens, again.tokens)
    assert not torch.equal(one.tokens, other.tokens)
    for weight, same in zip(one.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(weight, same)


def test_float32_answers_alike(made: Handmade) -> None:
    name = next(name for name in HANDMADE if built(name) is made)
    logits = HANDMADE[name](n_prompts=4).model.float()(made.tokens)
    torch.testing.assert_close(made.logit_diff(logits.double()), logit_diff(made), rtol=0, atol=2e-2 if made.leak else 1e-4)


@pytest.mark.parametrize("make", [induction, copying, indirect_object, neuron])
def test_gradients_flow(make: Callable[..., Handmade]) -> None:
    """The gradient at a head's output, times its difference between the runs, is 0 outside the circuit and not in it."""
    made = make(n_prompts=2)
    hooks, other = recording("blocks.*.attn.z")
    made.model(made.corrupted_tokens, hooks=hooks)
    hooks, z = recording("blocks.*.attn.z")
    difference = made.logit_diff(made.model(made.tokens, hooks=hooks)).sum()
    gradients = torch.autograd.grad(difference, list(z.values()))
    for head in all_heads(made):
        gradient, change = gradients[head.layer], other[z_of(head)] - z[z_of(head)]
        estimate = (gradient * change)[:, :, head.head].sum(dim=(1, 2))
        if head in made.circuit.heads:
            assert (estimate < -1e-2).all(), (head, estimate)
        else:
            assert estimate.abs().max() < ROUNDING, head


# --- any repeated sequence


@pytest.mark.parametrize("name", [name for name in HANDMADE if name.startswith("induction")])
def test_induction_on_repeated_random_letters(name: str) -> None:
    """Tokens drawn without replacement, one copy after them: prefix matching is at least the attention asked for, in one head."""
    made, generator = built(name), torch.Generator().manual_seed(0)
    drawn = torch.stack([torch.randperm(26, generator=generator)[:20] for _ in range(8)])
    hooks, patterns = recording("blocks.*.attn.pattern")
    logits = made.model(torch.cat([drawn, drawn], dim=1), hooks=hooks)
    second = torch.arange(20, 40)
    matching = {head: patterns[f"blocks.{head.layer}.attn.pattern"][:, head.head, second, second - 19] for head in all_heads(made)}
    (inducing,) = (head for head, role in made.circuit.heads.items() if role == "induction")
    assert matching.pop(inducing).min() >= made.attention - 1e-5
    assert max(float(score.mean()) for score in matching.values()) < 0.1
    log_probs = logits.log_softmax(dim=-1)[:, :-1].gather(-1, torch.cat([drawn, drawn], dim=1)[:, 1:, None]).squeeze(-1)
    assert -log_probs[:, 20:].mean() < 0.1
    assert -log_probs[:, :19].mean() > math.log(26) - 0.5


# --- bad input


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"attention": 1.0}, "attention is 1.0; give a fraction of at least 0.8 and less than 1"),
        ({"attention": 0.7}, "attention is 0.7"),
        ({"n_layers": 1}, "takes at least 2 layers"),
        ({"position": "sinusoidal"}, "positions that are attention_only, learned or rotary"),
        ({"position": "rotary", "distractors": ("first",)}, "does not attend to 'first'; give some of uniform"),
        ({"distractors": ("firts",)}, "distractors holds 'firts'; give at least one of first, uniform"),
        ({"distractors": ()}, "distractors holds nothing"),
        ({"n_prompts": 0}, "n_prompts is 0; give at least 1"),
    ],
)
def test_refusals(choices: dict[str, object], message: str, without_type_checks: None) -> None:
    with pytest.raises(ValueError, match=message):
        induction(**choices)  # type: ignore[arg-type]
