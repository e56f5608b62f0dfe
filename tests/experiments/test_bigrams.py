"""The table of bigrams against counting by hand, and the experiment at the reduced scale."""

import math
from collections import Counter
from itertools import pairwise

import pytest
import torch

from cutaway import experiments
from cutaway.experiments.bigrams import BigramTable


def test_table_counts_neighbours() -> None:
    text = [0, 1, 1, 2, 0, 1, 3]
    table = BigramTable.of(torch.tensor(text), 4)
    pairs, firsts, nexts = Counter(pairwise(text)), Counter(text[:-1]), Counter(text[1:])
    for (token, following), n in pairs.items():
        assert table.counts[token, following] == n
        assert table.log_probs[token, following].item() == pytest.approx(math.log(n / firsts[token]))
        assert table.unigram_log_probs[token, following].item() == pytest.approx(math.log(nexts[following] / 6))
    assert table.seen.sum() == len(pairs)
    assert not table.seen[3].any()  # nothing follows the last token


def test_divergence_and_entropy_of_a_text() -> None:
    text = torch.randint(5, (400,), generator=torch.Generator().manual_seed(0))
    table = BigramTable.of(text, 5)
    assert table.kl(table.log_probs) == 0
    other = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    by_token = [table.log_probs[a, b] - other[a, b] for a, b in pairwise(text.tolist())]
    assert table.kl(other) == pytest.approx(torch.stack(by_token).mean().item())
    assert table.entropy() == pytest.approx(-torch.stack([table.log_probs[a, b] for a, b in pairwise(text.tolist())]).mean().item())


def test_reduced_experiment_passes() -> None:
    experiment = experiments.experiment("bigrams")
    result = experiments.run("bigrams", experiment.scale("reduced").config)
    assert result.passed, list(result.failures())
    assert not any(check.null_passes for check in result.outcomes[0].checks)
    assert len(result.figures()) == 3
    lm = result.outcomes[0].models["bigrams-0l"]
    assert "".join(lm.generate(" sel", max_new_tokens=1, temperature=0))[-1] == "f"
