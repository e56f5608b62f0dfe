"""What both lenses are held against, and the experiment at the reduced scale."""

import pytest
import torch

from cutaway import LanguageModel, ModelConfig, Transformer, experiments
from cutaway.experiments.frame import Curves
from cutaway.experiments.lens import _apart, _constant, _fitted_biases, _read, _worst
from cutaway.experiments.text_model import Trained
from cutaway.interp.lens import TunedLens
from cutaway.tokenizers import CharTokenizer

N_LAYERS = 3


@pytest.fixture
def trained() -> Trained:
    config = ModelConfig(d_vocab=11, n_ctx=8, n_layers=N_LAYERS, n_heads=2, d_model=12, d_mlp=16)
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0), std=0.5)
    text = torch.randint(11, (400,), generator=torch.Generator().manual_seed(1))
    return Trained(LanguageModel(model.double(), CharTokenizer("abcdefghijk")), model, text[:320], text[320:], Curves())


def lens_of(trained: Trained) -> TunedLens:
    lens = TunedLens.untrained(trained.lm.model)
    generator = torch.Generator().manual_seed(2)
    A, b = (torch.randn(x.shape, generator=generator, dtype=torch.float64) / 10 for x in (lens.A, lens.b))
    return TunedLens(A, b, lens.model_sha256)


def test_divergences_are_those_of_states_and_translators(trained: Trained) -> None:
    model, lens = trained.lm.model, lens_of(trained)
    tokens = trained.held_out.reshape(-1, 8)
    with torch.no_grad():
        stream = [model.embed(tokens)]
        for layer in range(N_LAYERS):
            stream.append(model.run_blocks(stream[-1], range(layer, layer + 1)))
        final = model.unembed(stream[-1]).log_softmax(-1)

        def kl(resid: torch.Tensor) -> float:
            said = model.unembed(resid).log_softmax(-1)
            return torch.nn.functional.kl_div(said, final, log_target=True, reduction="none").sum(-1).mean().item()

        def through(state: int, translator: int) -> torch.Tensor:
            return stream[state] + stream[state] @ lens.A[translator].T + lens.b[translator]

        read = _read(trained, lens, tokens)
        assert read.logit_lens.tolist() == pytest.approx([kl(state) for state in stream])
        assert read.tuned_lens.tolist() == pytest.approx([*(kl(through(layer, layer)) for layer in range(3)), 0.0], abs=1e-12)
        others = [kl(through(0, 1)), kl(through(1, 2)), kl(through(2, 1)), 0.0]
        assert read.neighbours.tolist() == pytest.approx(others, abs=1e-12)
        assert torch.all(read.biases_alone[:-1] < read.logit_lens[:-1])
        assert read.biases_alone[-1] == 0
        rolled = [kl(torch.cat([state[-1:], state[:-1]])) for state in (*(through(layer, layer) for layer in range(3)), stream[3])]
        assert read.other_states.tolist() == pytest.approx(rolled)


def test_fitted_biases_are_where_the_divergence_is_flat(trained: Trained) -> None:
    model, tokens = trained.lm.model, trained.learnt.reshape(-1, 8)
    biases = _fitted_biases(model, tokens)
    assert biases.shape == (N_LAYERS, 12)
    with torch.no_grad():
        stream = [model.embed(tokens)]
        for layer in range(N_LAYERS):
            stream.append(model.run_blocks(stream[-1], range(layer, layer + 1)))
        final = model.unembed(stream[-1]).log_softmax(-1)
    for state, found in enumerate(biases):
        bias = found.clone().requires_grad_()
        said = model.unembed(stream[state] + bias).log_softmax(-1)
        kl = torch.nn.functional.kl_div(said, final, log_target=True, reduction="none").sum(-1).mean()
        (slope,) = torch.autograd.grad(kl, bias)
        (first,) = torch.autograd.grad(
            torch.nn.functional.kl_div(
                model.unembed(stream[state] + (at := torch.zeros_like(found).requires_grad_())).log_softmax(-1), final,
                log_target=True, reduction="none",
            ).sum(-1).mean(), at,
        )  # fmt: skip
        assert slope.norm() < 0.02 * first.norm()
    assert all(weight.grad is None for weight in model.parameters())


def test_the_mean_answer_is_that_on_the_text_learnt(trained: Trained) -> None:
    tokens = trained.held_out.reshape(-1, 8)
    learnt = trained.learnt.reshape(-1, 8)[torch.linspace(0, 39, len(tokens)).round().long()]
    with torch.no_grad():
        mean = trained.lm.model(learnt).softmax(-1).reshape(-1, 11).mean(0)
        probs = trained.lm.model(tokens).softmax(-1).reshape(-1, 11)
    expected = torch.stack([(row * (row.log() - mean.log())).sum() for row in probs]).mean().item()
    assert _constant(trained, tokens) == pytest.approx(expected)


def test_the_tuned_lens_is_the_model_at_the_last_layer_alone(trained: Trained) -> None:
    tokens = trained.held_out.reshape(-1, 8)
    apart = _apart(trained.lm, lens_of(trained), tokens)
    with torch.no_grad():
        own = trained.lm.model(tokens).log_softmax(-1)
        said = trained.lm.model.unembed(lens_of(trained).translate(trained.lm.model.embed(tokens), 0)).log_softmax(-1)
    following = torch.cat([tokens[:, 1:], own[:, -1:].argmax(-1)], dim=1)[..., None]
    assert apart[0].item() == pytest.approx((said - own).gather(-1, following).abs().max().item())
    assert (apart > 1e-3).tolist() == [True, True, True, False]
    assert apart[-1] < 1e-12  # float64


def test_the_worst_layer_is_one_before_the_last() -> None:
    assert _worst(torch.tensor([1.0, 3.0, 8.0]), torch.tensor([2.0, 4.0, 1.0])) == 0.75


def test_reduced_experiment_passes() -> None:
    experiment = experiments.experiment("lens")
    result = experiments.run("lens", experiment.scale("reduced").config)
    assert result.passed, list(result.failures())
    assert not any(check.null_passes for check in result.outcomes[0].checks)
    assert len(result.figures()) == 3
