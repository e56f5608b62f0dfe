"""Function vectors are made of the heads with the largest effects, and chosen and tested on different questions."""

import json
import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cutaway import steering
from cutaway.hooks import Hooks
from cutaway.interp.steering.function_vectors import _prompts, _split
from interp.steered_models import EXACT, PAIRS, activation, answering_model


def test_no_question_is_both_learned_and_tested() -> None:
    """Whatever comes twice, as it is, in other letters or with another output, stands on one side alone."""
    more = [*PAIRS, *PAIRS[:9], *((question.upper(), answer) for question, answer in PAIRS[:4])]
    more += [(question, answer + "z") for question, answer in PAIRS[3:7]]
    for seed in range(20):
        drawn = random.Random(seed)
        learned, kept = _split(drawn, more, 2)
        assert not {question.casefold() for question, _ in learned} & {question.casefold() for question, _ in kept}
        assert sorted({*learned, *kept}) == sorted(set(more))
        assert len(learned) + len(kept) == len(set(more))
        for _ in range(5):
            prompt, _ = _prompts(drawn, learned, 2)
            asked = [line.casefold() for line in prompt[0].splitlines() if line.startswith("Q:")]
            assert len(asked) == len(set(asked)) == 3, "the question is not among its own examples"
    twice = steering.function_vector(answering_model(), [*PAIRS, *PAIRS], n_shots=2, n_prompts=2, n_heads=2, seed=3)
    once = steering.function_vector(answering_model(), PAIRS, n_shots=2, n_prompts=2, n_heads=2, seed=3)
    assert twice.to_dict() == once.to_dict()


def test_a_function_vector_is_made_of_the_heads_with_the_largest_effects() -> None:
    """Head by head with plain hooks, prompt by prompt; and what these heads write, from their recorded results."""
    lm = answering_model()
    found = steering.function_vector(lm, PAIRS, n_shots=2, n_prompts=3, n_heads=2, layer=0, strength=1, n_random=1, seed=5)
    drawn = random.Random(5)
    learned, _ = _split(drawn, PAIRS, 2)
    clean, mixed = zip(*(_prompts(drawn, learned, 2) for _ in range(3)), strict=True)
    assert clean[0][0].count("Q: ") == 3
    assert clean[0][0].endswith("\nA:")
    assert [sorted(one[0]) for one in clean] == [sorted(one[0]) for one in mixed]
    assert [one[1] for one in clean] == [one[1] for one in mixed]
    results = [
        [activation(lm.model, lm.tokens(text), f"blocks.{layer}.attn.result")[0, -1] for text, _ in clean] for layer in range(3)
    ]
    zs = [[activation(lm.model, lm.tokens(text), f"blocks.{layer}.attn.z")[0, -1] for text, _ in clean] for layer in range(3)]

    def prob(text: str, answer: str, hooks: Hooks | None = None) -> float:
        with torch.no_grad():
            logits = lm.model(lm.tokens(text)) if hooks is None else lm.model(lm.tokens(text), hooks=hooks)
        return float(logits[0, -1].softmax(-1)[lm.tokenizer.encode(f" {answer}")[0]])

    for layer in range(3):
        for head in range(4):
            mean = torch.stack(zs[layer]).mean(0)[head]

            def put(x: Tensor, _name: str, head: int = head, mean: Tensor = mean) -> Tensor:
                x = x.clone()
                x[:, -1, head] = mean
                return x

            hooks = Hooks({f"blocks.{layer}.attn.z": put})
            effect = sum(prob(*asked, hooks) - prob(*asked) for asked in mixed) / 3
            assert float(found.effects[layer, head]) == pytest.approx(effect, abs=EXACT)
    best = found.effects.flatten().argsort(descending=True)[:2].tolist()
    assert list(found.heads) == [divmod(place, 4) for place in best]
    total = sum(torch.stack(results[layer]).mean(0)[head] for layer, head in found.heads)
    torch.testing.assert_close(found.vector.vector, total, rtol=0, atol=EXACT)
    assert found.n_tested == 4
    assert found.vector.name == "blocks.0.resid_post"
    assert len(found.figures()) == len(found.views()) == 2
    largest = float(found.effects.max())
    lowered = replace(found, effects=found.effects.where(found.effects > found.effects.min(), -10 * largest))
    assert lowered.figures()[0].axes[0].collections[0].get_clim() == (-largest, largest)  # one head does not make the others pale
    assert json.loads(found.to_json())["heads"] == [list(head) for head in found.heads]


def test_place_and_strength_are_chosen_on_the_pairs_it_is_made_of() -> None:
    """Each place and strength by a run of its own; the best of them is the one that is tested."""
    lm = answering_model()
    found = steering.function_vector(lm, PAIRS, n_shots=2, n_prompts=2, n_heads=2, n_random=1, seed=5)
    learned, _ = _split(random.Random(5), PAIRS, 2)
    placing, answers = found.placing, [lm.tokenizer.encode(f" {answer}")[0] for _, answer in learned]
    assert placing.names == tuple(f"blocks.{layer}.resid_post" for layer in range(3))
    probs = torch.zeros(3, len(placing.strengths), dtype=torch.float64)
    for layer, name in enumerate(placing.names):
        for number, strength in enumerate(placing.strengths):

            def add(x: Tensor, _name: str, by: Tensor = strength * found.vector.vector) -> Tensor:
                x = x.clone()
                x[:, -1] += by
                return x

            with torch.no_grad():
                logits = [lm.model(lm.tokens(f"Q: {question}\nA:"), hooks=Hooks({name: add})) for question, _ in learned]
            probs[layer, number] = torch.stack(
                [each[0, -1].softmax(-1)[answer] for each, answer in zip(logits, answers, strict=True)]
            ).mean()
    torch.testing.assert_close(placing.probs, probs, rtol=0, atol=EXACT)
    layer, number = divmod(int(probs.argmax()), len(placing.strengths))
    assert (found.vector.name, found.strength) == (placing.names[layer], placing.strengths[number])
    assert "(chosen on the pairs that it was made of)" in found.summary()
    assert len(found.figures()) == 3


def test_the_pairs_kept_for_the_test_are_drawn() -> None:
    """Of sorted pairs the last third would be another kind than the rest."""
    pairs = [(f"{number:02}", "x" if number < 20 else "y") for number in range(30)]
    learned, kept = _split(random.Random(0), pairs, 2)
    assert sorted(learned + kept) == pairs
    assert len(kept) == 10
    assert {output for _, output in kept} == {"x", "y"}
    assert _split(random.Random(0), pairs, 2) == (learned, kept)
    assert _split(random.Random(1), pairs, 2) != (learned, kept)


def test_a_shuffled_prompt_is_never_the_clean_one() -> None:
    drawn = random.Random(0)
    for pairs in (PAIRS, [("a", "x"), ("b", "x"), ("c", "x"), ("d", "y")]):
        for _ in range(100):
            clean, mixed = _prompts(drawn, pairs, 2)
            assert clean[0] != mixed[0]
            assert sorted(clean[0]) == sorted(mixed[0])
