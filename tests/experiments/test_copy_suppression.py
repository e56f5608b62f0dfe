"""The texts against their definition, the measures on attention and circuits made by hand, and the experiment at the reduced scale."""

import pytest
import torch

from cutaway import ModelConfig, Transformer, experiments
from cutaway.experiments.copy_suppression import _Ablated, _find, _looks_at, _lowers_most, _preference, _score, _Trained
from cutaway.experiments.frame import Curves
from cutaway.experiments.used_candidates import AGAIN, Candidates, CandidateTexts


def candidates(*, p_again: float = 0.3) -> Candidates:
    return Candidates.drawn(5, 8, n_each=4, p_again=p_again, generator=torch.Generator().manual_seed(0))


def texts(of: Candidates, batch_size: int = 60) -> CandidateTexts:
    return of.texts(batch_size, 7, generator=torch.Generator().manual_seed(1))


def test_every_turn_keeps_the_rules() -> None:
    made = candidates()
    drawn = texts(made)
    n_again = 0
    for row, log_probs, is_again, is_forbidden in zip(*drawn, strict=True):
        used: list[int] = []
        for turn in range(7):
            asked, candidate = int(row[2 * turn]), int(row[2 * turn + 1]) - made.first
            allowed = set() if asked == AGAIN else set(made.allowed[asked - 1].nonzero()[:, 0].tolist())
            assert is_again[turn] == (asked == AGAIN)
            assert set(is_forbidden[turn].nonzero()[:, 0].tolist()) == allowed & set(used)
            free = {used[-1]} if asked == AGAIN else allowed - set(used)
            assert candidate in free
            assert log_probs[turn].exp().item() == pytest.approx(1 / len(free))
            used.append(candidate)
            n_again += asked == AGAIN
    assert 60 * 6 * 0.2 < n_again < 60 * 6 * 0.45
    assert made.allowed.sum(1).tolist() == [4] * 5


def test_keys_that_are_forbidden_and_used() -> None:
    made = candidates()
    drawn = texts(made, 20)
    forbidden, used = drawn.is_forbidden_key(made.first), drawn.is_used_key(made.first)
    for row in range(20):
        for turn in range(7):
            for pos in range(14):
                is_used = pos % 2 == 1 and pos < 2 * turn
                assert used[row, turn, pos] == is_used
                token = int(drawn.tokens[row, pos]) - made.first
                assert forbidden[row, turn, pos] == (is_used and bool(drawn.is_forbidden[row, turn, token]))


def test_same_random_numbers_give_the_same_texts() -> None:
    assert torch.equal(texts(candidates()).tokens, texts(candidates()).tokens)


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="9 turns may need as many candidates and there are 8: give fewer turns"):
        candidates().texts(1, 9, generator=torch.Generator())
    with pytest.raises(ValueError, match="5 triggers with 9 of 8 candidates each"):
        Candidates.drawn(5, 8, n_each=9, p_again=0.1, generator=torch.Generator())


def test_tokens_are_written_as_letters() -> None:
    made = candidates()
    assert made.tokenizer.decode([AGAIN, 1, made.first, made.d_vocab - 1]) == "+Aah"
    assert made.tokenizer.d_vocab == made.d_vocab == 14


def test_one_who_knows_the_rules_gives_nothing_to_what_is_forbidden() -> None:
    made = candidates()
    drawn = texts(made)
    knowing = torch.full((60, 14, made.d_vocab), -1e4)
    forgetful = knowing.clone()
    for row, tokens in enumerate(drawn.tokens.tolist()):
        for turn in range(7):
            asked, used = tokens[2 * turn], [token - made.first for token in tokens[1 : 2 * turn : 2]]
            allowed = [used[-1]] if asked == AGAIN else made.allowed[asked - 1].nonzero()[:, 0].tolist()
            forgetful[row, 2 * turn, [made.first + each for each in allowed]] = 0
            left = allowed if asked == AGAIN else [each for each in allowed if each not in used]
            knowing[row, 2 * turn, [made.first + each for each in left]] = 0
    seen = {name: values.mean().item() for name, values in drawn.measured(knowing, made.first).items()}
    assert seen["forbidden"] == 0
    assert seen["something forbidden"] == pytest.approx(seen["least possible"], abs=1e-5)  # float32
    assert seen["again"] == 0
    shares = drawn.is_forbidden.sum(-1) / 4
    expected = shares[shares > 0].mean().item()
    assert drawn.measured(forgetful, made.first)["forbidden"].mean().item() == pytest.approx(expected, rel=1e-5)


def test_finds_who_suppresses_and_who_repeats() -> None:
    names = ["all", "L0H0", "L0H1", "L0H2"]
    ablated = _Ablated(
        dict(zip(names, [0.02, 0.06, 0.3, 0.2], strict=True)), {}, {}, dict(zip(names, [0.1, 0.2, 3.0, 0.3], strict=True))
    )
    found = _find(ablated, [(0, 0), (0, 1), (0, 2)])
    assert found.suppressing == [(0, 2), (0, 0)]
    assert found.repeating == (0, 1)


def hand_made(made: Candidates, sign: float) -> _Trained:
    """A head that looks at candidates alike and writes what it looks at, or against it."""
    size = made.d_vocab
    shape = ModelConfig(
        d_vocab=size, n_ctx=14, n_layers=1, n_heads=1, d_model=size, d_mlp=0, norm="none", position="none", attn_bias=False,
        tie_embeddings=False,
    )  # fmt: skip
    model = Transformer(shape).requires_grad_(False)
    for weight in model.parameters():
        weight.zero_()
    eye = torch.eye(size)
    model.embed.W_E.copy_(eye)
    model.unembed.W_U.weight.copy_(eye)
    model.blocks[0].attn.W_V.weight.copy_(eye)
    model.blocks[0].attn.W_O.weight.copy_(sign * eye)
    return _Trained(made, model, texts(made), Curves())


def test_measures_tell_a_head_that_copies_from_one_that_writes_against() -> None:
    made = candidates()
    copying, forbidding = hand_made(made, 1.0), hand_made(made, -1.0)
    # of 8 candidates' identity less its mean 7 eigenvalues are 1 and one is 0
    assert _score(copying, (0, 0)) == pytest.approx(1, abs=1e-5)
    assert _score(forbidding, (0, 0)) == pytest.approx(-1, abs=1e-5)
    assert _lowers_most(forbidding, [(0, 0)]) == 1
    assert _lowers_most(copying, [(0, 0)]) == 0


def test_attention_to_all_alike_prefers_nothing() -> None:
    made = candidates()
    trained = hand_made(made, 1.0)
    drawn = trained.judged
    is_key, is_used = drawn.is_forbidden_key(made.first), drawn.is_used_key(made.first)
    uniform = (1 / (2 * torch.arange(7) + 1.0))[None, :, None].expand_as(is_key)
    expected = uniform[is_key].mean() / uniform[is_used & ~is_key & ~drawn.is_again[..., None]].mean()
    assert _preference(trained, [(0, 0)]) == pytest.approx(expected.item(), rel=1e-5)
    assert 0.7 < expected < 1.1  # later turns have more that is forbidden, and give less to each
    token = made.first + 2
    chosen = uniform[is_key & (drawn.tokens == token)[:, None]]
    assert _looks_at(trained, (0, 0))[2].item() == pytest.approx(chosen.mean().item(), rel=1e-5)


def test_reduced_experiment_passes() -> None:
    experiment = experiments.experiment("copy-suppression")
    result = experiments.run("copy-suppression", experiment.scale("reduced").config)
    assert result.passed, list(result.failures())
    assert not any(check.null_passes for check in result.outcomes[0].checks)
    assert len(result.figures()) == 6
    lm = result.outcomes[0].models["copy-suppression"]
    assert lm.generate("Ab+", max_new_tokens=1, temperature=0)[-1] == "b"
