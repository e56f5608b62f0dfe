"""Causal tracing against loops of hooks written out here."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.hooks import Hook, Hooks, recording
from cutaway.interp.tracing import TraceResult, trace
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.report import stdout_console
from cutaway.tokenizers import CharTokenizer

ROUNDING = 1e-10
TOKENIZER = CharTokenizer("abcdefghijklmnopqrstuvwxyz ")
TEXT, SUBJECT, TARGET = "my cat is", "cat", "o"
N_LAYERS, N_DRAWS = 3, 2


@pytest.fixture
def make_lm(make_model: Callable[..., Transformer]) -> Callable[..., LanguageModel]:
    def make(**choices: Any) -> LanguageModel:
        sizes = {"d_vocab": 27, "n_ctx": 16, "n_layers": N_LAYERS, "n_heads": 2, "d_model": 8, **choices}
        return LanguageModel(make_model(ModelConfig(**sizes)).requires_grad_(False), TOKENIZER)

    return make


@pytest.fixture
def lm(make_lm: Callable[..., LanguageModel]) -> LanguageModel:
    return make_lm()


def noise_of(lm: LanguageModel, *, size: float = 3.0, seed: int = 0) -> Tensor:
    """Normal numbers for every draw and letter of the subject, in standard deviations of all numbers of the embedding."""
    drawn = torch.randn(N_DRAWS, len(SUBJECT), 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    W_E = lm.model.embed.W_E.detach()
    return size * ((W_E - W_E.mean()) ** 2).sum().div(W_E.numel() - 1).sqrt() * drawn


def probability(lm: LanguageModel, tokens: Tensor, hooks: dict[str, Hook]) -> Tensor:
    return lm.model(tokens, hooks=Hooks(hooks))[:, -1].softmax(-1)[:, TOKENIZER.encode(TARGET)[0]]


@pytest.mark.parametrize(
    "choices", [{}, {"position": "rotary", "block": "parallel"}, {"is_causal": False, "position": "sinusoidal"}]
)
@pytest.mark.parametrize("window", [1, 2])
def test_noise(make_lm: Callable[..., LanguageModel], choices: dict[str, Any], window: int) -> None:
    lm = make_lm(**choices)
    found = trace(lm, TEXT, SUBJECT, TARGET, n_draws=N_DRAWS, window=window)
    tokens, noise = lm.tokens(TEXT), noise_of(lm)
    hooks, clean = recording("blocks.*", "logits")
    lm.model(tokens, hooks=hooks)

    def corrupt(x: Tensor, _name: str) -> Tensor:
        x = x.clone()
        x[:, 3:6] += noise
        return x

    tokens = tokens.expand(N_DRAWS, -1)
    corrupted = probability(lm, tokens, {"embed": corrupt})
    torch.testing.assert_close(found.corrupted, corrupted, rtol=0, atol=ROUNDING)
    assert found.clean == pytest.approx(float(clean["logits"][0, -1].softmax(-1)[TOKENIZER.encode(TARGET)[0]]), abs=ROUNDING)
    assert found.total_effect == pytest.approx(found.clean - float(corrupted.mean()), abs=ROUNDING)
    for site in ("resid_post", "mlp_out", "attn_out"):
        for layer in range(N_LAYERS):
            layers = [layer] if window == 1 else [each for each in (layer - 1, layer) if each >= 0]
            for pos in range(len(TEXT)):

                def restore(x: Tensor, name: str, pos: int = pos) -> Tensor:
                    x = x.clone()
                    x[:, pos] = clean[name][:, pos]
                    return x

                expected = probability(lm, tokens, {"embed": corrupt, **{f"blocks.{each}.{site}": restore for each in layers}})
                torch.testing.assert_close(found.restored[site][layer, pos], expected, rtol=0, atol=ROUNDING)
                effect = found.effects[site][layer, pos]
                torch.testing.assert_close(effect, (expected - corrupted).mean(), rtol=0, atol=ROUNDING)


def test_what_must_come_out(lm: LanguageModel) -> None:
    found = trace(lm, TEXT, SUBJECT, TARGET, n_draws=N_DRAWS)
    stream = found.effects["resid_post"]
    assert stream[-1, -1] == pytest.approx(found.total_effect, abs=ROUNDING)  # the last state is all that is read
    assert stream[-1, :-1].abs().max() < ROUNDING
    for effect in found.effects.values():
        assert effect[:, :3].abs().max() == 0  # nothing before the subject changed
    assert found.subject == (3, 4, 5)
    assert found.windows == {"resid_post": 1, "mlp_out": 1, "attn_out": 1}
    assert found.best("resid_post")[2] == pytest.approx(float((stream / found.total_effect).max()), abs=ROUNDING)
    assert found.best("resid_post", within=(3, 4))[1] in (3, 4)


def test_seed_and_size(lm: LanguageModel) -> None:
    one, again, other = (trace(lm, TEXT, SUBJECT, TARGET, n_draws=2, seed=seed, sites=["mlp_out"]) for seed in (1, 1, 2))
    assert torch.equal(one.restored["mlp_out"], again.restored["mlp_out"])
    assert not torch.equal(one.corrupted, other.corrupted)
    small = trace(lm, TEXT, SUBJECT, TARGET, n_draws=2, noise=1e-4, seed=1, sites=["mlp_out"])
    assert abs(small.total_effect) < 1e-2 * abs(one.total_effect)


@pytest.mark.parametrize("replacement", ["dog", "horse"])
def test_another_subject(lm: LanguageModel, replacement: str) -> None:
    found = trace(lm, TEXT, SUBJECT, TARGET, replacement=replacement)
    tokens, other = lm.tokens(TEXT), lm.tokens(TEXT.replace(SUBJECT, replacement))
    hooks, clean = recording("blocks.*")
    lm.model(tokens, hooks=hooks)
    shift = len(replacement) - len(SUBJECT)
    assert found.positions == (tuple(range(9)) if shift == 0 else (0, 1, 2, 6, 7, 8))
    assert found.subject == ((3, 4, 5) if shift == 0 else ())
    torch.testing.assert_close(found.corrupted, probability(lm, other, {}), rtol=0, atol=ROUNDING)
    for site, values in found.restored.items():
        for layer in range(N_LAYERS):
            for place, pos in enumerate(found.positions):

                def restore(x: Tensor, name: str, pos: int = pos) -> Tensor:
                    x = x.clone()
                    x[:, pos if pos < 3 else pos + shift] = clean[name][:, pos]
                    return x

                expected = probability(lm, other, {f"blocks.{layer}.{site}": restore})
                torch.testing.assert_close(values[layer, place], expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("replacement", [None, "dog"])
def test_dropout_is_off_and_the_mode_stays(make_lm: Callable[..., LanguageModel], replacement: str | None) -> None:
    lm = make_lm(dropout=0.5)
    plain = trace(lm, TEXT, SUBJECT, TARGET, n_draws=2, replacement=replacement)
    lm.model.train()
    for _ in range(2):
        again = trace(lm, TEXT, SUBJECT, TARGET, n_draws=2, replacement=replacement)
        assert lm.model.training
        assert (again.clean, again.corrupted.tolist()) == (plain.clean, plain.corrupted.tolist())
        assert all(again.restored[site].equal(values) for site, values in plain.restored.items())


def by_hand(
    effects: list[list[float]], *, site: str = "resid_post", window: int = 1, subject: tuple[int, ...] = (0,)
) -> TraceResult:
    restored = torch.tensor(effects, dtype=torch.float64)[..., None]  # layer pos draw
    return TraceResult(
        tokens=tuple("abc"),
        positions=(0, 1, 2),
        subject=subject,
        places=subject,
        n_tokens=3,
        corruption="It is corrupted.",
        measured="probability",
        clean=1.0,
        corrupted=torch.zeros(1, dtype=torch.float64),
        restored={site: restored},
        windows={site: window},
    )


def test_the_subject_comes_first_and_what_is_the_answer_itself_is_left_out() -> None:
    effects = [[0.4, 0.1, 0.0], [0.3, 0.2, 0.6], [0.0, 0.0, 1.0]]
    assert "within the subject brings most back at layer 0, 0 a (40.0 %" in by_hand(effects).summary()
    assert (
        "elsewhere at layer 1, 2 c (60.0 %, Important), not counting the last position in the last layer"
        in by_hand(effects).summary()
    )
    assert by_hand(effects).best("resid_post") == (1, 2, 0.6)
    assert by_hand(effects, window=3).best("resid_post") == (0, 0, 0.4)  # a window around layer 1 ends with the last, too
    assert by_hand(effects, site="mlp_out").best("mlp_out") == (2, 2, 1.0)  # what is added there is a part of it
    assert "not counting the last position in the last 2 layers" in by_hand(effects, window=3).summary()
    assert "Critical is above 70 %, Important is above 40 %, Moderate is above 20 %" in by_hand(effects).summary()
    assert "not counting" not in by_hand(effects, site="mlp_out").summary()
    assert "stream after a layer brings most back at layer 1, 2 c" in by_hand(effects, subject=()).summary()


@pytest.mark.parametrize("replacement", [None, "horse"])
def test_what_is_shown(lm: LanguageModel, replacement: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    found = trace(lm, TEXT, SUBJECT, TARGET, n_draws=2, replacement=replacement)
    values = found.to_dict()
    assert values["total_effect"] == found.total_effect
    assert values["effects"]["mlp_out"] == found.effects["mlp_out"].tolist()
    assert found.to_json()
    found.show(stdout_console())
    shown = capsys.readouterr().out
    assert "a total effect of" in shown
    assert ("Positions without a partner are skipped" in shown) == (replacement is not None)
    assert max(map(len, shown.split("\n\n", 1)[1].splitlines())) <= 80
    assert len(found.figures()) == 3


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"subject": "dog"}, "'dog' is not in the text"),
        ({"subject": ""}, "is not in the text"),
        ({"noise": 0.0}, "expected noise above 0"),
        ({"n_draws": 0}, "at least one draw"),
        ({"window": 9}, "expected 1 to 3 layers"),
        ({"sites": []}, "sites are empty"),
        ({"sites": ["resid"]}, "nearest names"),
        ({"replacement": "cat"}, "are the same tokens"),
        ({"target": "ooo"}, "is not one token"),
    ],
)
def test_refused(lm: LanguageModel, given: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        trace(lm, **{"text": TEXT, "subject": SUBJECT, "target": TARGET, "n_draws": 1, **given})


def test_states_of_another_prompt(make_lm: Callable[..., LanguageModel]) -> None:
    lm, other = make_lm(), "a dog is "
    found = trace(lm, TEXT, SUBJECT, TARGET, n_draws=N_DRAWS, source=other)
    plain = trace(lm, TEXT, SUBJECT, TARGET, n_draws=N_DRAWS)
    assert found.clean == plain.clean
    assert torch.equal(found.corrupted, plain.corrupted)
    tokens, noise = lm.tokens(TEXT), noise_of(lm)
    hooks, states = recording("blocks.*")
    lm.model(lm.tokens(other), hooks=hooks)
    places = [pos for pos, _ in enumerate(TEXT) if pos in range(TEXT.index(SUBJECT), TEXT.index(SUBJECT) + len(SUBJECT))]

    def corrupt(x: Tensor, _name: str) -> Tensor:
        x = x.clone()
        x[:, places] += noise
        return x

    for layer, pos in ((0, 4), (2, 8)):
        name = f"blocks.{layer}.mlp_out"

        def restore(x: Tensor, _name: str, name: str = name, pos: int = pos) -> Tensor:
            x = x.clone()
            x[:, pos] = states[name][0, pos]
            return x

        expected = probability(lm, tokens.expand(N_DRAWS, -1), {"embed": corrupt, name: restore})
        torch.testing.assert_close(found.restored["mlp_out"][layer, pos], expected, rtol=0, atol=ROUNDING)
    with pytest.raises(ValueError, match="has 5 tokens and the prompt 9: give one of as many tokens"):
        trace(lm, TEXT, SUBJECT, TARGET, source="a dog")


def test_a_model_without_mlps_is_traced_without_them(make_lm: Callable[..., LanguageModel]) -> None:
    found = trace(make_lm(d_mlp=0), TEXT, SUBJECT, TARGET, n_draws=N_DRAWS)
    assert list(found.effects) == ["resid_post", "attn_out"]
    with pytest.raises(ValueError, match="no activation of a layer is called 'mlp_out'"):
        trace(make_lm(d_mlp=0), TEXT, SUBJECT, TARGET, sites=["mlp_out"])
