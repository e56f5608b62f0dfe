"""Steering: vectors against plain recordings, edits against weights that cannot write a direction, costs against whole runs."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import cutaway
from cutaway import LanguageModel, metrics, steering
from cutaway.hooks import Hooks, recording
from cutaway.interp.generating import generate_with_edits
from cutaway.interp.steering import SteeringVector
from cutaway.interp.steering.function_vectors import _prompts, _split
from cutaway.model import Transformer
from cutaway.tokenizers import BPETokenizer, CharTokenizer
from cutaway.weights import model_sha256
from interp.models import VARIANTS, small_model

# float64 sums in another order
EXACT = 1e-10

LETTERS = "abcdefghijklmnopqrstuvwxyz .:\nQAXYZ"


def language_model(**changes: object) -> LanguageModel:
    tokenizer = CharTokenizer(LETTERS)
    return LanguageModel(small_model(n_ctx=64, d_vocab=tokenizer.d_vocab, **changes), tokenizer)


def activation(model: Transformer, tokens: Tensor, name: str) -> Tensor:
    hooks, found = recording(name)
    with torch.no_grad():
        model(tokens, hooks=hooks)
    return found[name]


def vector_of(model: Transformer, *, name: str = "blocks.1.resid_post", scale: float = 1.0, seed: int = 0) -> SteeringVector:
    drawn = torch.randn(model.config.d_model, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return SteeringVector(name, scale * drawn, "drawn", model_sha256(model))


@pytest.mark.parametrize("pos", [-1, 1, None])
def test_a_difference_of_means_is_that(pos: int | None) -> None:
    lm = language_model()
    towards, away = ["abc", "cab fg", "the sea"], ["xyz", "no"]
    found = steering.differences_of_means(lm, towards, away, [0, 2], part="attn_out", pos=pos)
    assert [each.name for each in found] == ["blocks.0.attn_out", "blocks.2.attn_out"]
    for each in found:
        means = []
        for texts in (towards, away):
            rows = [activation(lm.model, lm.tokens(text), each.name)[0] for text in texts]
            means.append(
                torch.cat([row[1:] for row in rows]).mean(0) if pos is None else torch.stack([row[pos] for row in rows]).mean(0)
            )
        torch.testing.assert_close(each.vector, means[0] - means[1], rtol=0, atol=EXACT)


def test_activation_addition_is_position_by_position() -> None:
    lm = language_model()
    found = steering.activation_addition(lm, "love", "hate it", layer=1)
    rows = [activation(lm.model, lm.tokens(text), "blocks.1.resid_pre")[0] for text in ("love   ", "hate it")]
    torch.testing.assert_close(found.vector, rows[0] - rows[1], rtol=0, atol=EXACT)

    def add(x: Tensor, _name: str) -> Tensor:
        return torch.cat([x[:, :7] + 3 * found.vector, x[:, 7:]], dim=1)

    tokens = lm.tokens("the weather is fine")
    by_hand = lm.model(tokens, hooks=Hooks({"blocks.1.resid_pre": add}))
    torch.testing.assert_close(cutaway.run_with_edits(lm.model, tokens, found.edits(3.0)), by_hand, rtol=0, atol=EXACT)
    with pytest.raises(ValueError, match="leave out pos"):
        found.edits(1.0, pos=2)
    with pytest.raises(ValueError, match="no one direction"):
        _ = found.direction


def test_a_vector_of_positions_goes_as_far_as_a_text_does() -> None:
    """On texts shorter than it, and to tokens of the prompt alone while text is written."""
    lm = language_model()
    vector = steering.activation_addition(lm, "love", "hate it", layer=1)
    texts, strength = ["abc", "the weather is fine"], 3.0
    kl = 0.0
    for text in texts:
        tokens = lm.tokens(text)
        n = min(7, tokens.shape[1])

        def add(x: Tensor, _name: str, n: int = n) -> Tensor:
            return torch.cat([x[:, :n] + strength * vector.vector[:n], x[:, n:]], dim=1)

        base, edited = (lm.model(tokens, hooks=hooks).log_softmax(-1) for hooks in (Hooks({}), Hooks({"blocks.1.resid_pre": add})))
        kl += float((base.exp() * (base - edited)).sum())
    found = steering.side_effects(lm, vector, strengths=[strength], texts=texts, n_random=1)
    assert found.vector[0].kl == pytest.approx(kl / sum(map(len, texts)), abs=EXACT)

    scan = steering.scan_strengths(lm, vector, ["abc", "xyz"], strengths=[strength], metric=metrics.log_prob(3), n_random=1)
    by_hand = cutaway.run_with_edits(lm.model, lm.tokens(["abc", "xyz"]), vector.edits(strength, n_pos=3))
    torch.testing.assert_close(scan.scores[0, 0], by_hand[:, -1].log_softmax(-1)[:, 3], rtol=0, atol=EXACT)
    uneven = steering.scan_strengths(lm, vector, texts, strengths=[strength], metric=metrics.log_prob(3), n_random=1)
    torch.testing.assert_close(uneven.scores[0, 0, 0], scan.scores[0, 0, 0], rtol=0, atol=EXACT)

    written = steering.steer(
        lm, vector, "ab", strengths=[strength], neutral=texts, n_random=1, max_new_tokens=6, temperature=0.0
    ).steered[1]
    rows, edits = lm.tokens("ab"), vector.edits(strength, n_pos=2)
    for _ in range(6):
        rows = torch.cat([rows, cutaway.run_with_edits(lm.model, rows, edits)[:, -1:].argmax(-1)], dim=1)
    assert written.continuations == (lm.text(rows[0])[2:],)
    assert written.damage.kl == pytest.approx(kl / sum(map(len, texts)), abs=EXACT)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "bidirectional"])
def test_ablation_is_a_model_that_cannot_write_the_direction(variant: str) -> None:
    """Arditi et al. 2024, section 4.1: every weight that writes to the stream is made orthogonal to the direction."""
    model = small_model(variant)
    vector = vector_of(model)
    tokens = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    edited = cutaway.run_with_edits(model, tokens, vector.ablation(model.config))
    assert float((edited - model(tokens)).detach().abs().max()) > 1e-3
    off = torch.eye(model.config.d_model, dtype=torch.float64) - torch.outer(vector.direction, vector.direction)
    W_U = model.unembed.W_U.weight.clone()
    with torch.no_grad():
        rows = [model.embed.W_E, getattr(model.embed.pos_embed, "W_pos", None)]
        for block in model.blocks:
            for linear in (block.attn.W_O, getattr(block.mlp, "W_out", None)):
                if linear is not None:
                    linear.weight.copy_(off @ linear.weight)
                    rows.append(linear.bias)
        for each in rows:
            if each is not None:
                each.copy_(each @ off)
        resid = model.run_blocks(model.embed(tokens))
        model.unembed.W_U.weight.copy_(W_U)  # where it is the embedding, it reads as before
        orthogonal = model.unembed(resid)
    torch.testing.assert_close(edited, orthogonal, rtol=0, atol=EXACT)


def test_text_is_written_under_the_vector() -> None:
    """Greedy, token by token, with a plain hook."""
    lm = language_model()
    vector = vector_of(lm.model, scale=2.0)
    found = steering.steer(
        lm, vector, ["the ", "a"], strengths=(0.0, 3.0, -3.0), neutral=["abc def"], max_new_tokens=6, temperature=0
    )
    assert [each.label for each in found.steered] == ["0", "3", "-3"]
    for each in found.steered:
        for prompt, continuation in zip(found.prompts, each.continuations, strict=True):
            tokens, strength = lm.tokens(prompt), each.strength or 0.0
            for _ in range(6):
                add = Hooks({vector.name: lambda x, _name, strength=strength: x + strength * vector.vector})
                with torch.no_grad():
                    tokens = torch.cat([tokens, lm.model(tokens, hooks=add)[:, -1:, : lm.tokenizer.d_vocab].argmax(-1)], dim=1)
            assert lm.text(tokens[0]) == prompt + continuation
    assert len({each.continuations for each in found.steered}) == 3
    ablated = steering.steer(lm, vector, "the ", ablate=True, neutral=["abc def"], max_new_tokens=6, temperature=0)
    expected = generate_with_edits(lm, "the ", vector.ablation(lm.config), max_new_tokens=6, temperature=0)
    assert ablated.steered[1].continuations == (expected.removeprefix("the "),)
    assert ablated.steered[1].label == "ablated"


def test_ablation_is_held_against_as_much_moved_elsewhere() -> None:
    """State by state as far as the ablation itself; along its own direction that is the ablation."""
    lm = language_model()
    vector, tokens = vector_of(lm.model, scale=2.0), lm.tokens("the sea")
    same = vector.ablation_along(vector, lm.model, tokens)
    expected = cutaway.run_with_edits(lm.model, tokens, vector.ablation(lm.config))
    torch.testing.assert_close(cutaway.run_with_edits(lm.model, tokens, same), expected, rtol=0, atol=EXACT)
    other = vector.random(seed=0)
    for one, two in zip(same, vector.ablation_along(other, lm.model, tokens), strict=True):
        assert one.name == two.name
        assert one.value is not None
        assert two.value is not None
        torch.testing.assert_close(one.value.norm(dim=-1), two.value.norm(dim=-1), rtol=0, atol=EXACT)
    found = steering.steer(lm, vector, "a", ablate=True, neutral=["the sea"], n_random=1, max_new_tokens=1)
    moved = cutaway.run_with_edits(lm.model, tokens, vector.ablation_along(other, lm.model, tokens))[0].log_softmax(-1)
    base = lm.model(tokens)[0].log_softmax(-1)
    kl = torch.nn.functional.kl_div(moved, base, reduction="batchmean", log_target=True).item()
    assert found.steered[1].random[0].kl == pytest.approx(kl, abs=EXACT)
    assert "moved by as much along random directions" in found.summary()


def test_side_effects_are_measured_on_whole_runs() -> None:
    lm = language_model()
    vector, texts = vector_of(lm.model), ["abc def ghi", "the sea", "xyz"]
    found = steering.side_effects(lm, vector, strengths=(0.0, 0.5), texts=texts, n_random=2)
    nats, kl, n_predicted, n_tokens = 0.0, 0.0, 0, 0
    base_nats = 0.0
    for text in texts:
        tokens = lm.tokens(text)
        base = lm.model(tokens)[0].log_softmax(-1)
        moved = cutaway.run_with_edits(lm.model, tokens, vector.edits(0.5))[0].log_softmax(-1)
        kl += torch.nn.functional.kl_div(moved, base, reduction="sum", log_target=True).item()
        nats += torch.nn.functional.nll_loss(moved[:-1], tokens[0, 1:], reduction="sum").item()
        base_nats += torch.nn.functional.nll_loss(base[:-1], tokens[0, 1:], reduction="sum").item()
        n_predicted, n_tokens = n_predicted + tokens.shape[1] - 1, n_tokens + tokens.shape[1]
    assert found.vector[1].kl == pytest.approx(kl / n_tokens, abs=EXACT)
    assert found.vector[1].perplexity == pytest.approx(torch.tensor(nats / n_predicted).exp().item(), rel=1e-6)
    assert found.perplexity == pytest.approx(torch.tensor(base_nats / n_predicted).exp().item(), rel=1e-6)
    assert found.vector[0].kl == pytest.approx(0, abs=EXACT)
    assert found.vector[0].perplexity == pytest.approx(found.perplexity)
    assert found.n_tokens == n_tokens
    assert all(len(each) == 2 for each in found.random)
    assert len({one.kl for one in found.random[1]}) == 2


def test_a_scan_is_one_run_for_each_cell() -> None:
    lm = language_model()
    texts, strengths = ["abc", "the sea", "fghi"], (0.5, -2.0)
    vectors = [vector_of(lm.model, name=f"blocks.{layer}.resid_post", seed=layer) for layer in range(3)]
    for pos in (None, -1):
        found = steering.scan_strengths(
            lm, vectors, texts, strengths=strengths, correct="a", wrong="b", pos=pos, n_random=2, seed=7
        )
        a, b = lm.tokenizer.encode("ab")

        def score(edits: list[cutaway.Edit], a: int = a, b: int = b) -> Tensor:
            rows = [cutaway.run_with_edits(lm.model, lm.tokens(text), edits)[0, -1] for text in texts]
            return torch.stack([row[a] - row[b] for row in rows])

        torch.testing.assert_close(found.base, score([]), rtol=0, atol=EXACT)
        for i, vector in enumerate(vectors):
            for j, strength in enumerate(strengths):
                torch.testing.assert_close(found.scores[i, j], score(vector.edits(strength, pos=pos)), rtol=0, atol=EXACT)
                randoms = torch.stack([score(vector.random(seed=7 + n).edits(strength, pos=pos)) for n in range(2)])
                torch.testing.assert_close(found.random[i, j], randoms, rtol=0, atol=EXACT)


def test_random_changes_do_not_cancel() -> None:
    """Two random directions that change the metric by 3 and by -3 say that 2 is nothing much; their mean would say 0."""
    scan = steering.StrengthScan(
        names=("blocks.0.resid_post",),
        strengths=(1.0, 2.0),
        metric="logit",
        base=torch.tensor([1.0, 3.0]),
        scores=torch.tensor([[[3.0, 5.0], [7.0, 9.0]]]),
        random=torch.tensor([[[[4.0, 6.0], [-2.0, 0.0]], [[2.0, 4.0], [-4.0, -2.0]]]]),
        pos=None,
    )
    assert scan.matrix.tolist() == [[2.0, 6.0]]
    assert scan.random_changes.tolist() == [[[3.0, -3.0], [1.0, -5.0]]]
    assert scan.random_size.tolist() == [[3.0, 3.0]]
    assert scan.random_extreme.tolist() == [[3.0, -5.0]]
    assert scan.n_as_large.tolist() == [[2, 0]]
    assert "2 random directions of that length change it by 3.000 up or down on average, -5.000 at the most" in scan.summary()
    assert "0 of 2 by as much" in scan.summary()


def test_a_random_direction_is_as_long() -> None:
    model = small_model()
    for vector in (vector_of(model), SteeringVector("blocks.0.resid_pre", torch.rand(4, 32, dtype=torch.float64), "drawn", "")):
        random = vector.random(seed=3)
        torch.testing.assert_close(random.vector.norm(dim=-1), vector.vector.norm(dim=-1))
        assert torch.equal(random.vector, vector.random(seed=3).vector)
        assert not torch.equal(random.vector, vector.random(seed=4).vector)


PAIRS = [(a, b) for a, b in zip("abcdefghijkl", "lkjihgfedcba", strict=True)]


def answering_model() -> LanguageModel:
    """A model in which a letter and the space before it are one token, so that an answer's first token says which it is."""
    tokenizer = BPETokenizer.train(" a b c d e f g h i j k l" * 20, 256 + 12)
    return LanguageModel(small_model(n_ctx=64, d_vocab=tokenizer.d_vocab), tokenizer)


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


@pytest.mark.parametrize("ending", ["json", "safetensors"])
def test_a_vector_is_saved_and_read_back(tmp_path: Path, ending: str) -> None:
    model = small_model()
    for vector in (vector_of(model), vector_of(model, name="blocks.0.resid_pre")):
        path = vector.save(tmp_path / f"vector.{ending}")
        again = SteeringVector.load(path, model)
        assert torch.equal(again.vector, vector.vector)
        assert (again.name, again.made, again.model_sha256) == (vector.name, vector.made, vector.model_sha256)
    with pytest.raises(ValueError, match="made for another model"):
        SteeringVector.load(path, small_model(seed=1))
    path.write_bytes(path.read_bytes()[:40])
    said = {"json": r"it is no JSON \(line 2\)", "safetensors": "it is no safetensors file with a tensor called vector"}[ending]
    with pytest.raises(ValueError, match=f"holds no steering vector: {said}"):
        SteeringVector.load(path, model)


MODEL = small_model()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: vector_of(MODEL).save("vector.pt"), "ends in .json or .safetensors"),
        (lambda: SteeringVector.load("absent.json", MODEL), "there is no file absent.json"),
        (lambda: SteeringVector.from_dict({"format": "other"}), "its format is 'other'"),
        (lambda: SteeringVector.from_dict({"format": "cutaway steering vector 1"}), "it lacks 'vector'"),
        (lambda: steering.difference_of_means(language_model(), "abc", "abc", 1), "both sets of prompts have the same mean"),
        (lambda: steering.difference_of_means(language_model(), "abc", "abd", 9), "there is no layer 9"),
        (lambda: steering.difference_of_means(language_model(), "abc", "d", 1, pos=1), "text 0 has 1 tokens"),
        (lambda: steering.difference_of_means(language_model(), "abc", "d", 1, pos=None), "a text has one token"),
        (lambda: steering.activation_addition(language_model(), "abc", "abc", 1), "both prompts are 'abc'"),
        (lambda: steering.steer(language_model(), vector_of(MODEL), "a"), "made for another model"),
        (
            lambda: steering.steer(language_model(), vector_of(language_model().model), "a", strengths=(0,)),
            "no strength to steer with",
        ),
        (lambda: steering.side_effects(language_model(), vector_of(language_model().model), texts=["a"]), "has one token"),
        (
            lambda: steering.side_effects(language_model(), vector_of(language_model().model), texts=["ab"], n_random=0),
            "n_random is 0",
        ),
        (lambda: steering.scan_strengths(language_model(), [], "ab"), "there are 0 vectors"),
        (lambda: vector_of(MODEL, name="blocks.0.attn.z").ablation(MODEL.config), "not of the residual stream"),
        (lambda: steering.function_vector(language_model(), PAIRS[:5]), "there are 5 different inputs"),
        (lambda: steering.function_vector(answering_model(), PAIRS, n_shots=2, n_heads=99), "99 heads were asked for"),
        (lambda: steering.function_vector(answering_model(), PAIRS, n_shots=1), "1 example was asked for: give at least 2"),
        (lambda: steering.function_vector(language_model(), [(a, "x") for a, _ in PAIRS], n_shots=2), "all have the output 'x'"),
        (
            lambda: steering.function_vector(language_model(), PAIRS, n_shots=2),
            "begin with the same token, ' ', and an answer is known by its first token: give outputs that differ in it",
        ),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call, sentence: str) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"(?s).+") as error:
        call()
    assert sentence in str(error.value)
    assert not list(tmp_path.iterdir())


def test_side_effects_are_drawn_from_the_least_strength_to_the_greatest() -> None:
    """In whichever order strengths were given; each keeps its own value."""
    lm = language_model()
    vector = vector_of(lm.model)
    written = steering.steer(lm, vector, "abc", strengths=(2, 4, -4), max_new_tokens=1, neutral=["abc"])
    kl_of = {each.strength: each.damage.kl for each in written.steered}
    costs = steering.side_effects(lm, vector, texts=["abc"], strengths=(2, 4, -4))
    for found, expected in ((written, [-4, 0, 2, 4]), (costs, [-4, 2, 4])):
        curve = found.figures()[0].axes[0].lines[0]
        assert curve.get_xdata().tolist() == expected
        assert curve.get_ydata().tolist() == pytest.approx([kl_of[strength] for strength in expected])


def test_results_are_shown_printed_and_drawn() -> None:
    lm = language_model()
    vector = vector_of(lm.model)
    results = [
        steering.steer(lm, vector, "the", strengths=(1, 2), neutral=["abc"], max_new_tokens=2),
        steering.steer(lm, vector, "the", ablate=True, neutral=["abc"], max_new_tokens=2),
        steering.side_effects(lm, vector, texts=["abc"], strengths=(1, 2)),
        steering.scan_strengths(lm, vector, "abc", metric=metrics.log_prob(3)),
    ]
    for result in results:
        assert result.figures()
        assert result.views()
        assert result.summary() in repr(result)
        assert result.to_json()
    assert "perplexity" in results[0].summary()
