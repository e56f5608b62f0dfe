"""Ablation: one sweep against one run with plain hooks for each unit, and circuits that are known."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.experiments.handmade import HANDMADE, Head, Neuron
from cutaway.hooks import Hooks, recording
from cutaway.interp import metrics
from cutaway.interp.ablation import How, What, ablate, ablate_heads, backup_effects, head_importance
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.tokenizers import CharTokenizer

MakeModel = Callable[..., Transformer]
MakeTokens = Callable[..., Tensor]

# float64, the same sums in another order
EXACT = 1e-10

PARTS: dict[What, list[str]] = {
    "head": ["attn.z"],
    "attn": ["attn_out"],
    "mlp": ["mlp_out"],
    "layer": ["attn_out", "mlp_out"],
    "neuron": ["mlp.post"],
    "position": ["resid_pre"],
}


def loss_of_rows(logits: Tensor, tokens: Tensor) -> Tensor:
    nats = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    return nats.mean(dim=1)


def naive_loss(model: Transformer, tokens: Tensor, changes: dict[str, Callable[[Tensor], None]]) -> Tensor:
    """The loss of a run in which functions write into copies of activations."""

    def hook(x: Tensor, name: str) -> Tensor:
        x = x.clone()
        changes[name](x)
        return x

    with torch.no_grad():
        return loss_of_rows(model(tokens, hooks=Hooks(dict.fromkeys(changes, hook))), tokens)


def values_of(model: Transformer, source: Tensor, name: str) -> Tensor:
    hooks, found = recording(name)
    with torch.no_grad():
        model(source, hooks=hooks)
    return found[name]


def places(what: What, index: int | None, pos: int | None) -> tuple[object, ...]:
    """Where a unit is in "batch pos ..."."""
    at = slice(None) if pos is None else pos
    match what:
        case "head":
            return (slice(None), at, index)
        case "neuron":
            return (slice(None), at, index)
        case "position":
            return (slice(None), index)
        case _:
            return (slice(None), at)


@pytest.mark.parametrize("pos", [None, -2])
@pytest.mark.parametrize("how", ["zero", "mean", "mean by position", "resample"])
@pytest.mark.parametrize("what", list(PARTS))
def test_it_is_one_run_with_hooks_for_each_unit(
    make_model: MakeModel, make_tokens: MakeTokens, tiny_config: ModelConfig, what: What, how: str, pos: int | None
) -> None:
    config = tiny_config.replace(position="rotary", n_kv_heads=2, norm="rmsnorm", d_mlp=6)
    model, tokens = make_model(config), make_tokens(batch=3)
    reference = make_tokens(batch=4, seed=7)
    kind: How = "mean" if how.startswith("mean") else how  # type: ignore[assignment]
    found = ablate(
        model,
        tokens,
        what=what,
        how=kind,
        reference=None if how == "zero" else reference,
        by_position=how == "mean by position",
        layers=range(2),
        pos=pos,
        seed=5,
    )
    partners = torch.randint(4, (3,), generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(found.base, naive_loss(model, tokens, {}), rtol=0, atol=EXACT)
    parts = [f"blocks.{layer}.{part}" for layer in range(2) for part in PARTS[what]]
    kept = {name: torch.zeros(()) if how == "zero" else values_of(model, reference, name) for name in parts}
    assert len(found.units) == 2 * {"head": 4, "neuron": 6, "position": 9 if pos is None else 1}.get(what, 1)
    for number, unit in enumerate(found.units):
        changes: dict[str, Callable[[Tensor], None]] = {}
        for part in PARTS[what]:
            name = f"blocks.{unit.layer}.{part}"
            values = kept[name]
            new = {
                "zero": lambda x, v: torch.zeros_like(x),
                "mean": lambda x, v: v.mean(dim=(0, 1)).expand_as(x),
                "mean by position": lambda x, v: v.mean(dim=0).expand_as(x),
                "resample": lambda x, v: v[partners],
            }[how]

            def write(x: Tensor, values: Tensor = values, new=new, unit=unit) -> None:  # type: ignore[no-untyped-def]
                where = places(what, unit.index, pos)
                x[where] = new(x, values)[where]

            changes[name] = write
        torch.testing.assert_close(found.scores[number], naive_loss(model, tokens, changes), rtol=0, atol=EXACT)


def test_without_a_reference_means_are_of_the_rows_and_no_row_is_its_own_partner(
    make_model: MakeModel, make_tokens: MakeTokens, tiny_config: ModelConfig
) -> None:
    model, tokens = make_model(tiny_config), make_tokens(batch=2)
    z = values_of(model, tokens, "blocks.1.attn.z")

    def put(new: Tensor) -> Tensor:
        def write(x: Tensor) -> None:
            x[:, :, 2] = new

        return naive_loss(model, tokens, {"blocks.1.attn.z": write})

    mean = ablate(model, tokens, how="mean")
    assert mean.units[6].label == "L1H2"
    torch.testing.assert_close(mean.scores[6], put(z[:, :, 2].mean(dim=(0, 1))), rtol=0, atol=EXACT)
    swapped = ablate(model, tokens, how="resample", seed=3)  # of two rows each takes the other's
    torch.testing.assert_close(swapped.scores[6], put(z.flip(0)[:, :, 2]), rtol=0, atol=EXACT)


def test_resampling_follows_its_seed(make_model: MakeModel, make_tokens: MakeTokens, tiny_config: ModelConfig) -> None:
    model, tokens = make_model(tiny_config), make_tokens(batch=5)
    runs = [ablate(model, tokens, how="resample", seed=seed).scores for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_any_metric_may_be_measured(make_model: MakeModel, make_tokens: MakeTokens, tiny_config: ModelConfig) -> None:
    model, tokens = make_model(tiny_config), make_tokens()
    by_answer = ablate(model, tokens, correct=3, wrong=[5, 6])
    by_metric = ablate(model, tokens, metric=metrics.logit_diff(3, [5, 6]))
    by_function = ablate(model, tokens, metric=lambda logits: logits[:, -1, 3] - logits[range(2), -1, [5, 6]])
    torch.testing.assert_close(by_answer.scores, by_function.scores, rtol=0, atol=EXACT)
    torch.testing.assert_close(by_metric.scores, by_function.scores, rtol=0, atol=EXACT)
    assert by_answer.metric == "logit of 3 less the wrong one"
    alone = ablate(model, tokens, correct=3)
    torch.testing.assert_close(alone.base, model(tokens)[:, -1].log_softmax(-1)[:, 3].detach(), rtol=0, atol=EXACT)


def test_heads_are_taken_out_together(make_model: MakeModel, make_tokens: MakeTokens, tiny_config: ModelConfig) -> None:
    model, tokens, reference = make_model(tiny_config), make_tokens(), make_tokens(batch=3, seed=4)
    sets = {"both": [(0, 1), (-1, 3)], "one": [(1, 0)], "twice": [(1, 0), (1, 0)], "none": []}
    found = ablate_heads(model, sets, tokens, how="mean", reference=reference)
    means = {layer: values_of(model, reference, f"blocks.{layer}.attn.z").mean(dim=(0, 1)) for layer in (0, 1)}

    def write(layer: int, head: int) -> Callable[[Tensor], None]:
        def into(x: Tensor) -> None:
            x[:, :, head] = means[layer][head]

        return into

    both = naive_loss(model, tokens, {"blocks.0.attn.z": write(0, 1), "blocks.1.attn.z": write(1, 3)})
    one = naive_loss(model, tokens, {"blocks.1.attn.z": write(1, 0)})
    torch.testing.assert_close(found.scores, torch.stack([both, one, one, found.base]), rtol=0, atol=EXACT)
    assert found.effect("none") == 0
    assert found.effect("both") == pytest.approx(float((both - found.base).mean()), abs=EXACT)
    assert ablate_heads(model, [(0, 1), (1, 3)], tokens).units[0].label == "L0H1 L1H3"


def tiny_lm(make_model: MakeModel, config: ModelConfig) -> LanguageModel:
    tokenizer = CharTokenizer("abcdefgh ")
    return LanguageModel(make_model(config.replace(d_vocab=tokenizer.d_vocab)), tokenizer)


def test_texts_of_different_lengths_are_as_if_each_were_alone(make_model: MakeModel, tiny_config: ModelConfig) -> None:
    lm = tiny_lm(make_model, tiny_config)
    texts = ["abc defg", "hag", "bad cab"]
    together = ablate(lm, texts, pos=-1)
    alone = torch.cat([ablate(lm, text, pos=-1).scores for text in texts], dim=1)
    torch.testing.assert_close(together.scores, alone, rtol=0, atol=EXACT)
    mean = ablate(lm, texts, how="mean")
    zs = torch.cat([values_of(lm.model, lm.tokens(text), "blocks.0.attn.z")[0] for text in texts])  # every token counts once
    tokens = lm.tokens("hag")

    def write(x: Tensor) -> None:
        x[:, :, 1] = zs.mean(dim=0)[1]

    expected = naive_loss(lm.model, tokens, {"blocks.0.attn.z": write})
    torch.testing.assert_close(mean.scores[1, 1:2], expected, rtol=0, atol=EXACT)
    assert "these same rows and all positions (18 tokens)" in mean.replacement


@pytest.mark.parametrize("name", ["induction", "induction, LayerNorm and MLP", "copying", "indirect object"])
def test_the_heads_of_a_known_circuit_are_found_and_no_others(name: str) -> None:
    made = HANDMADE[name](n_prompts=4)
    found = ablate(made.model, made.tokens, metric=made.logit_diff)
    base = float(found.base.mean())
    named = {Head(unit.layer, unit.index) for unit, effect in found.ranked() if abs(effect) > 0.1 * base}  # type: ignore[arg-type]
    assert named == set(made.circuit.heads)
    outside = [effect for unit, effect in found.ranked() if Head(unit.layer, unit.index) not in made.circuit.heads]  # type: ignore[arg-type]
    assert max(map(abs, outside)) <= made.leak + EXACT * base
    importance = head_importance(made.model, made.tokens, metric=made.logit_diff)
    n = len(made.circuit.heads)
    assert {Head(*head) for head in importance.ranked(top=n)} == set(made.circuit.heads)


def test_the_one_neuron_that_knows_is_found() -> None:
    made = HANDMADE["neuron"](n_prompts=4)
    found = ablate(made.model, made.tokens, what="neuron", layers=range(2), metric=made.logit_diff)
    base = float(found.base.mean())
    assert [Neuron(unit.layer, unit.index) for unit, effect in found.ranked() if abs(effect) > EXACT * base] == list(  # type: ignore[arg-type]
        made.circuit.neurons
    )


def test_heads_that_copy_do_not_answer_for_the_others() -> None:
    """In the induction circuit the induction head alone writes the answer, and nothing comes after it: nobody steps in."""
    made = HANDMADE["induction, with an MLP"](n_prompts=4)
    (inducing,) = (head for head, role in made.circuit.heads.items() if role == "induction")
    found = backup_effects(made.model, made.tokens, inducing, correct=made.answers, wrong=made.wrong_answers)
    torch.testing.assert_close(found.logit_before, made.logit_diff(made.model(made.tokens)).detach(), rtol=0, atol=EXACT)
    assert found.lost == pytest.approx(float(found.logit_before.mean()), rel=1e-9)
    assert abs(found.restored) < EXACT
    assert not found.changes.abs().gt(EXACT * found.lost).any()


BAD: dict[str, tuple[dict[str, object], str]] = {
    "what": ({"what": "word"}, "there is nothing called 'word' to ablate"),
    "how": ({"how": "noise"}, "there is no ablation 'noise'; give one of zero, mean, resample"),
    "neurons of all layers": ({"what": "neuron"}, "name the layers meant"),
    "layer": ({"layers": 2}, "there is no layer 2; the layers are 0 to 1"),
    "position": ({"pos": 9}, "there is no position 9 in every row"),
    "reference of zeros": ({"reference": torch.zeros(1, 9, dtype=torch.long)}, "zeros come from nowhere"),
    "short reference": ({"how": "resample", "reference": torch.zeros(2, 4, dtype=torch.long)}, "a reference row has 4 tokens"),
    "short reference by position": (
        {"how": "mean", "by_position": True, "reference": torch.zeros(2, 4, dtype=torch.long)},
        "a mean for each position needs reference rows of 9 tokens",
    ),
    "by position": ({"how": "resample", "by_position": True}, "means alone are by position"),
    "both": ({"metric": metrics.logit(3), "correct": 3}, "give one of them"),
    "wrong alone": ({"wrong": 3}, "give that too"),
    "one answer twice": ({"correct": 3, "wrong": 3}, "the answer and the wrong answer are one token"),
}


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("case", BAD)
def test_mistakes_are_said(make_model: MakeModel, make_tokens: MakeTokens, tiny_config: ModelConfig, case: str) -> None:
    settings, sentence = BAD[case]
    model = make_model(tiny_config)
    with pytest.raises(ValueError, match=sentence):
        ablate(model, make_tokens(), **settings)  # type: ignore[arg-type]


def test_more_mistakes_are_said(make_model: MakeModel, make_tokens: MakeTokens, tiny_config: ModelConfig) -> None:
    model, tokens = make_model(tiny_config), make_tokens()
    with pytest.raises(ValueError, match="there is no head 4 of layer 0"):
        ablate_heads(model, [(0, 4)], tokens)
    with pytest.raises(ValueError, match="several such rows, or a reference"):
        ablate(model, tokens[:1], how="resample")
    with pytest.raises(ValueError, match="a text needs a tokenizer"):
        ablate(model, "abc")
    with pytest.raises(ValueError, match="no MLP"):
        ablate(make_model(tiny_config.replace(d_mlp=0)), tokens, what="mlp")
    lm = tiny_lm(make_model, tiny_config)
    with pytest.raises(ValueError, match=r"\[3, 5\] tokens; to ablate positions give rows of one length"):
        ablate(lm, ["abc", "abcde"], what="position")
    with pytest.raises(ValueError, match="rows end at different positions"):
        ablate(lm, ["abc", "abcde"], how="resample", reference=["abcdef"], pos=-1)


@pytest.mark.parametrize("what", list(PARTS))
def test_every_kind_is_shown(make_model: MakeModel, tiny_config: ModelConfig, what: What) -> None:
    lm = tiny_lm(make_model, tiny_config)
    found = ablate(lm, "abc deaf", what=what, layers=range(2), correct="b")
    assert "The log-probability of b is" in found.summary()
    found.to_json()
    assert len(found.figures()) == 1
    assert found.views()
    assert found.table()[1][0][0].startswith(found.ranked()[0].unit.label)
    assert [abs(effect) for _, effect in found.ranked()] == sorted(map(abs, found.effects.tolist()), reverse=True)
