"""Steering: vectors against plain recordings, edits against weights that cannot write a direction, costs against whole runs."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import cutaway
from cutaway import metrics, steering
from cutaway.hooks import Hooks
from cutaway.interp.generating import generate_with_edits
from cutaway.interp.steering import SteeringVector
from interp.models import VARIANTS, small_model
from interp.steered_models import EXACT, PAIRS, activation, answering_model, language_model, vector_of


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
