"""Which growth describes lengths that grow in a known way, and the experiment on SmolLM2 itself."""

import pytest
import torch

from cutaway import experiments
from cutaway.experiments.residual_norms import _POWERS, Growth, _Grown
from cutaway.interp.residual import ResidualStream

LAYER = torch.arange(12, dtype=torch.float64)
GROWN = {
    "exponential": 3.0 * (0.08 * LAYER).exp(),
    "linear": 3.0 * (1 + 0.7 * LAYER),
    "square root": 3.0 * (1 + 0.7 * LAYER).sqrt(),
    "square": 3.0 * (1 + 0.2 * LAYER) ** 2,
    "cube": 3.0 * (1 + 0.1 * LAYER) ** 3,
    "fourth power": 3.0 * (1 + 0.3 * LAYER) ** 4,
}


@pytest.mark.parametrize("kind", GROWN)
def test_each_growth_describes_itself(kind: str) -> None:
    fits = {each: Growth.fit(each, GROWN[kind]) for each in GROWN}
    assert fits[kind].unexplained < 1e-5  # rates are tried 0.6 % apart
    atol = 2e-3 * max(1.0, _POWERS.get(kind, 1.0))  # what a rate is off by counts as often as it is multiplied
    torch.testing.assert_close(fits[kind].fitted, GROWN[kind].log(), atol=atol, rtol=0)
    assert all(fit.unexplained > 1e-4 for each, fit in fits.items() if each != kind)


def test_least_squares_is_that_of_a_line_through_the_logs() -> None:
    noisy = GROWN["exponential"] * torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64).mul(0.1).exp()
    line = torch.linalg.lstsq(torch.stack([torch.ones(12).double(), LAYER], 1), noisy.log()[:, None]).solution
    fitted = line[0] + line[1] * LAYER
    rest = (noisy.log() - fitted).square().sum() / (noisy.log() - noisy.log().mean()).square().sum()
    fit = Growth.fit("exponential", noisy)
    torch.testing.assert_close(fit.fitted, fitted)
    torch.testing.assert_close(fit.unexplained, rest)


def test_no_other_rate_describes_it_better() -> None:
    noisy = GROWN["linear"] * torch.randn(12, generator=torch.Generator().manual_seed(1), dtype=torch.float64).mul(0.05).exp()
    for kind, power in (("linear", 1.0), ("square root", 0.5), ("fourth power", 4.0)):
        rates = torch.linspace(0.01, 20, 5000, dtype=torch.float64)
        shapes = power * (1 + rates[:, None] * LAYER).log()
        left = noisy.log() - shapes
        least = (left - left.mean(1, keepdim=True)).square().sum(1).min()
        share = least / (noisy.log() - noisy.log().mean()).square().sum()
        assert Growth.fit(kind, noisy).unexplained.item() == pytest.approx(share.item(), rel=1e-3)  # rates 0.6 % apart


def test_first_layer_and_first_position_are_left_out() -> None:
    norms = torch.stack([GROWN["exponential"], GROWN["linear"][:12]], dim=1)  # point pos
    wild = torch.full((13, 1), 500.0, dtype=torch.float64)
    norms = torch.cat([wild, torch.cat([torch.full((1, 2), 9e4), norms.float()]).double()], dim=1)
    empty = torch.zeros(0)
    grown = _Grown.of(
        ResidualStream(
            points=("",) * 13, positions=("",) * 3, norms=norms, cosines=torch.eye(13), parts=(), lengths=empty, along=empty,
            shares=empty,
        )
    )  # fmt: skip
    torch.testing.assert_close(grown.lengths, (GROWN["exponential"] + GROWN["linear"]) / 2, rtol=1e-6, atol=0)  # through float32
    assert grown.share_of_positions == 0.5
    assert grown.explained("linear") <= 1
    added = grown.lengths[1:] - grown.lengths[:-1]
    assert grown.bend == pytest.approx((added[6:].mean() / added[:6].mean()).item())
    steps = (grown.lengths[1:] / grown.lengths[:-1]).log()
    parts = [steps[:4], steps[4:8], steps[8:]]  # 11 steps, the first parts the longer
    assert grown.factors(3) == pytest.approx([part.mean().exp().item() for part in parts])


@pytest.mark.slow
@pytest.mark.usefixtures("smollm2_fetched")
def test_reduced_experiment_passes() -> None:
    result = experiments.run("residual-norms", experiments.experiment("residual-norms").scale("reduced").config)
    assert result.passed, list(result.failures())
    assert not any(check.null_passes for check in result.outcomes[0].checks)
    assert len(result.figures()) == 2
