"""The measures on patterns that are known, and the experiment at the reduced scale."""

import pytest
import torch

from cutaway import edits, experiments, metrics, run_with_edits
from cutaway.experiments import handmade
from cutaway.experiments.attention_patterns import _diagonals, _lost, _patterns, _turned, _uniform
from cutaway.experiments.repeated_segments import repeated_segments


def test_diagonals_are_found() -> None:
    n_pos = 12
    back = {(0, 0): 1, (0, 1): 3, (1, 0): 2, (1, 1): 4}
    patterns = torch.zeros(2, 5, 2, n_pos, n_pos)
    for (layer, head), distance in back.items():
        patterns[layer, :, head] = 0.75 * torch.eye(n_pos).roll(-distance, dims=1).tril() + 0.25 * torch.eye(n_pos)
    found = _diagonals(patterns, 4)
    assert {place: int(found.distance[place]) for place in back} == back
    assert torch.allclose(found.attention, torch.full((2, 2), 0.75))


def test_turned_patterns_read_the_other_end() -> None:
    pattern = torch.tensor([[1.0, 0.0, 0.0], [0.2, 0.8, 0.0], [0.1, 0.3, 0.6]])
    assert torch.equal(_turned(pattern), torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.2, 0.0], [0.6, 0.3, 0.1]]))
    assert torch.equal(_turned(_turned(pattern)), pattern)
    assert torch.allclose(_turned(_uniform(5)), _uniform(5))


def test_losses_are_those_of_whole_runs() -> None:
    model = handmade.induction().model
    generator = torch.Generator().manual_seed(0)
    tokens = repeated_segments(
        32, 24, d_vocab=model.config.d_vocab, generator=generator
    )  # each at a place and a distance of its own
    averages = _patterns(model, tokens).mean(1)
    lost = _lost(model, tokens, averages)

    def loss(patterns: torch.Tensor) -> float:
        changes = [edits.replace(f"blocks.{layer}.attn.pattern", patterns[layer]) for layer in range(2)]
        return metrics.loss(tokens)(run_with_edits(model, tokens, changes)).mean().item()

    base = metrics.loss(tokens)(model(tokens)).mean().item()
    assert lost.averages == pytest.approx(loss(averages) - base, abs=1e-5)  # float32
    assert lost.uniform == pytest.approx(loss(_uniform(tokens.shape[1]).to(averages).expand_as(averages)) - base, abs=1e-5)
    assert lost.turned == pytest.approx(loss(_turned(averages)) - base, abs=1e-5)
    n_heads = averages.shape[1]
    swapped = [loss(averages[:, [(head + by) % n_heads for head in range(n_heads)]]) - base for by in range(1, n_heads)]
    assert lost.swapped == pytest.approx(sum(swapped) / len(swapped), abs=1e-5)
    # a diagonal is the same on every text, what an induction head reads is not
    made = handmade.induction().circuit.heads
    by_role = {role: lost.by_head[tuple(head)].item() for head, role in made.items()}
    assert by_role["previous token"] == pytest.approx(0.0, abs=1e-3)
    assert abs(by_role["induction"]) > 0.1  # less is lost: where nothing comes again, its guess is wrong


@pytest.mark.slow
def test_reduced_experiment_passes() -> None:
    result = experiments.run("attention-patterns", experiments.experiment("attention-patterns").scale("reduced").config)
    assert result.passed, list(result.failures())
    assert not any(check.null_passes for check in result.outcomes[0].checks)
    assert len(result.figures()) == 2
