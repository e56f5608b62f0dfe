"""Clocks in modular addition: a network that has grokked holds numbers as hands of a few clocks, and its answers turn with them.

How both numbers' hands come together is not shown: with attention frozen at its mean, which leaves products to the neurons alone, over
half of the answers stay right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from cutaway import Transformer, edits, gradients, metrics, run_with_cache, run_with_edits
from cutaway.experiments.frame import Check, Experiment, Outcome, Scale, Trial
from cutaway.experiments.modular_addition import PUBLISHED, Sums, SumsConfig, learn_sums, number_embedding, summing_model
from cutaway.experiments.number_waves import (
    along_waves,
    circle_share,
    cosine_share,
    frequency_power,
    in_plane,
    leading_frequencies,
    neuron_shares,
    of_frequencies,
    plane_of,
    sum_waves,
    turned,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "run", "draw"]

_HOLDS = 0.9  # of the embedding's power, by its key frequencies
_CLEAR = 0.85  # of how a neuron varies, by one frequency
_BETWEEN = 1 / 3  # of a step, by which hands stand between those of two numbers


@dataclass(frozen=True, eq=False)
class _Reading:
    """A model with its key frequencies, and as many others."""

    model: Transformer
    sums: Sums
    keys: Sequence[int]
    others: Sequence[int]

    @classmethod
    def of(cls, model: Transformer, sums: Sums, generator: torch.Generator) -> _Reading:
        """Find the fewest frequencies that hold most of the embedding's power, and draw as many of the rest."""
        W = number_embedding(model)
        keys = leading_frequencies(W, share=_HOLDS)
        rest = leading_frequencies(W)[len(keys) :]
        return cls(
            model, sums, keys, [rest[place] for place in torch.randperm(len(rest), generator=generator)[: len(keys)].tolist()]
        )

    def circles(self) -> float:
        """Return how much of the planes of the key frequencies is even circles, each counted by its power."""
        W = number_embedding(self.model)
        power = frequency_power(W)[[k - 1 for k in self.keys]]
        return float(power @ torch.tensor([circle_share(W, k) for k in self.keys], dtype=power.dtype) / power.sum())

    def neurons(self) -> Float[Tensor, "frequency neuron"]:
        """Return the share of each frequency in each neuron at the sign =."""
        name = "blocks.0.mlp.post"
        _, cache = run_with_cache(self.model, self.sums.tokens, name, pos=-1)
        return neuron_shares(cache[name][:, 0])

    def clear_neurons(self) -> float:
        """Return the share of neurons of which one frequency says most."""
        return (self.neurons().max(0).values >= _CLEAR).double().mean().item()

    def cosines(self, frequencies: Sequence[int]) -> float:
        """Return how much of the logits is one cosine of a + b - c a frequency."""
        with torch.no_grad():
            return cosine_share(self.sums.logits(self.model), frequencies)

    def best_cosines(self) -> float:
        """Return the same of the frequencies that have most of the logits, as many as there are key frequencies."""
        each = [self.cosines([k]) for k in range(1, self.sums.prime // 2 + 1)]
        return sum(sorted(each)[-len(self.keys) :])

    def sum_share(self) -> float:
        """Return how much of how the logits vary over pairs is waves of a + b at the key frequencies."""
        with torch.no_grad():
            logits = self.sums.logits(self.model).double()
        logits = logits - logits.mean(1, keepdim=True)
        varying = logits - logits.mean(0)
        return (along_waves(logits, sum_waves(self.sums.prime, self.keys)).pow(2).sum() / varying.pow(2).sum()).item()

    def accuracy_on(self, pairs: Int[Tensor, " some"]) -> float:
        """Return the accuracy on some pairs."""
        with torch.no_grad():
            return self.sums.accuracy(self.sums.logits(self.model), pairs)

    def with_numbers(self, a: Float[Tensor, "number d_model"], b: Float[Tensor, "number d_model"]) -> Float[Tensor, "pair answer"]:
        """Return the logits with other embeddings of the first and of the second numbers."""
        tokens = self.sums.tokens
        value = torch.stack([a[tokens[:, 0]], b[tokens[:, 1]]], dim=1).to(self.model.embed.W_E.dtype)
        with torch.no_grad():
            return run_with_edits(self.model, tokens, [edits.replace("embed", value, pos=[0, 1])])[:, -1]

    def accuracy_with(self, frequencies: Sequence[int]) -> float:
        """Return the accuracy with numbers that are made of their mean and these frequencies alone."""
        W = number_embedding(self.model)
        kept = W.mean(0) + of_frequencies(W, frequencies)
        return self.sums.accuracy(self.with_numbers(kept, kept))

    def accuracy_without(self, frequencies: Sequence[int]) -> float:
        """Return the accuracy with numbers that lack these frequencies."""
        W = number_embedding(self.model)
        left = W - of_frequencies(W, frequencies)
        return self.sums.accuracy(self.with_numbers(left, left))

    def planes(self) -> Float[Tensor, "key 2 d_model"]:
        """Return the planes of the key frequencies' clocks."""
        W = number_embedding(self.model)
        return torch.stack([plane_of(W, k) for k in self.keys])

    def random_planes(self, generator: torch.Generator) -> Float[Tensor, "key 2 d_model"]:
        """Return as many planes, at right angles to each other, of the space that the clocks span: together they hold as much power."""
        axes = torch.linalg.qr(rearrange(self.planes(), "key side d -> d (key side)")).Q
        mixed = torch.linalg.qr(torch.randn(axes.shape[1], axes.shape[1], generator=generator, dtype=axes.dtype)).Q
        planes: Float[Tensor, "key 2 d_model"] = rearrange(axes @ mixed, "d (key side) -> key side d", side=2)
        return planes

    def turned(self, planes: Float[Tensor, "key 2 d_model"], n_steps: float) -> Float[Tensor, "pair answer"]:
        """Return the logits with the first number turned in these planes by steps of the clocks, whole ones or not."""
        W = number_embedding(self.model)
        a_step = 2 * torch.pi / self.sums.prime * torch.tensor(self.keys, dtype=W.dtype)
        return self.with_numbers(turned(W, planes, n_steps * a_step), W)

    def answers_turned(self, planes: Float[Tensor, "key 2 d_model"]) -> float:
        """Return the share of answers that move on by n when the first number is turned by n steps; over all n but 0."""
        return mean(self.sums.accuracy(self.turned(planes, n), moved=n) for n in range(1, self.sums.prime))

    def cosines_turned(self, planes: Float[Tensor, "key 2 d_model"]) -> float:
        """Return how much of the logits is the cosines that have moved on by n steps and a third, where no number is; over all n."""
        turns = [n + _BETWEEN for n in range(self.sums.prime)]
        return mean(cosine_share(self.turned(planes, by), self.keys, moved=by) for by in turns)

    def accuracy_with_frozen_attention(self) -> float:
        """Return the accuracy with every pattern of the sign = at its mean over all pairs."""
        name, tokens = "blocks.0.attn.pattern", self.sums.tokens
        _, cache = run_with_cache(self.model, tokens, name)
        mean = cache[name][:, :, -1].mean(0)  # head k_pos
        with torch.no_grad():
            logits = run_with_edits(self.model, tokens, [edits.replace(name, mean, pos=-1)])[:, -1]
        return self.sums.accuracy(logits)

    def gradient_symmetry(self, generator: torch.Generator) -> float:
        """Return how alike a logit's gradients to both numbers' embeddings are: their cosine, one random logit a pair, on average.

        Source: Zhong et al. 2023, who find it near 1 where numbers are first averaged (the pizza), and low for the clock.
        """
        chosen = torch.randint(self.sums.prime, (len(self.sums.tokens),), generator=generator)
        _, _, found = gradients(self.model, self.sums.tokens, metrics.logit(chosen.tolist()), "embed")
        return F.cosine_similarity(found["embed"][:, 0], found["embed"][:, 1], dim=-1).mean().item()

    def distance_irrelevance(self) -> float:
        """Return how much the correct logit varies among pairs with one difference a - b, beside how much it does over all.

        Source: Zhong et al. 2023: low for the pizza, whose logits follow the difference.
        """
        prime, (a, b, _) = self.sums.prime, self.sums.tokens.T
        with torch.no_grad():
            logits = self.sums.logits(self.model).double()
        correct = logits.gather(1, self.sums.answers[:, None])[:, 0]
        by_difference = correct[((a - b) % prime).argsort(stable=True)].unflatten(0, (prime, prime))
        return float(by_difference.std(1).mean() / correct.std())


def run(config: SumsConfig, trial: Trial) -> Outcome:
    """Train a model until it has grokked and settled, then read its clocks off its weights, and turn them."""
    sums = Sums.drawn(config, trial)
    lm, untrained, control = (summing_model(config, trial) for _ in range(3))
    curves = learn_sums(trial, "sums", lm.model, sums, config)
    without = learn_sums(trial, "without weight decay", control.model, sums, replace(config, weight_decay=0.0))
    after = _Reading.of(lm.model, sums, trial.generator("others"))
    before = replace(after, model=untrained.model, keys=leading_frequencies(number_embedding(untrained.model))[: len(after.keys)])
    random = after.random_planes(trial.generator("planes"))
    causal = tuple(_causal_checks(after, random))
    return Outcome(
        checks=(*causal, *_weight_checks(after, before), *_logit_checks(after, replace(after, model=control.model), random)),
        numbers={
            "test accuracy": curves["test accuracy"][1, -1].item(),
            "test accuracy where b + a is not learnt from either": after.accuracy_on(sums.without_mirror),
            "train accuracy without weight decay": without["train accuracy"][1, -1].item(),
            "test accuracy without weight decay": without["test accuracy"][1, -1].item(),
            "accuracy with attention frozen at its mean": after.accuracy_with_frozen_attention(),
            "distance irrelevance": after.distance_irrelevance(),
            "likeness of a logit's gradients to both numbers": after.gradient_symmetry(trial.generator("logits")),
            "the same, untrained": before.gradient_symmetry(trial.generator("logits")),
            "share of its best frequency in a neuron, mean": after.neurons().max(0).values.mean().item(),
            "share of the key frequencies in the logits over pairs": after.sum_share(),
        },
        arrays=_arrays(after, before) | {"interventions": torch.tensor([[check.value, check.null] for check in causal])},
        models={"modular-addition": lm},
    )


def _causal_checks(after: _Reading, random: Float[Tensor, "key 2 d_model"]) -> Iterator[Check]:
    """Yield what becomes of the answers when hands are turned, left alone, or taken away, and likewise of what is no clock."""
    yield Check(
        name="share of answers that move on by n when the first number's hands are turned by n steps", at_least=0.95,
        value=after.answers_turned(after.planes()), null=after.answers_turned(random), null_of="random planes of the clocks' space",
    )  # fmt: skip
    yield Check(
        name="accuracy with the key frequencies of the embedding alone", at_least=0.95,
        value=after.accuracy_with(after.keys), null=after.accuracy_with(after.others), null_of="other frequencies",
    )  # fmt: skip
    yield Check(
        name="accuracy without the key frequencies of the embedding", at_most=0.1,
        value=after.accuracy_without(after.keys), null=after.accuracy_without(after.others), null_of="other frequencies",
    )  # fmt: skip


def _weight_checks(after: _Reading, before: _Reading) -> Iterator[Check]:
    """Yield what the weights are made of, from the numbers to the neurons."""
    yield Check(
        name="key frequencies: the fewest that hold 90 % of the embedding's power", at_most=6,
        value=len(after.keys), null=len(leading_frequencies(number_embedding(before.model), share=_HOLDS)), null_of="untrained",
    )  # fmt: skip
    yield Check(
        name="how much of the embedding's key frequencies is even circles, as a share", at_least=0.9,
        value=after.circles(), null=before.circles(), null_of="untrained",
    )  # fmt: skip
    yield Check(
        name="share of neurons that are to 85 % waves of one frequency and their products", at_least=0.5,
        value=after.clear_neurons(), null=before.clear_neurons(), null_of="untrained",
    )  # fmt: skip


def _logit_checks(after: _Reading, control: _Reading, random: Float[Tensor, "key 2 d_model"]) -> Iterator[Check]:
    """Yield what the logits are made of, and what of when hands stand between those of two numbers."""
    yield Check(
        name="share of the logits that is cos(w(a + b - c)) of the key frequencies w", at_least=0.85,
        value=after.cosines(after.keys), null=control.best_cosines(), null_of="without weight decay, its best frequencies",
    )  # fmt: skip
    yield Check(
        name="share of the logits that is cos(w(a + t + b - c)) with the first number's hands turned by t = n + 1/3 steps",
        at_least=0.8, value=after.cosines_turned(after.planes()),
        null=after.cosines_turned(random), null_of="random planes of the clocks' space",
    )  # fmt: skip


def _arrays(after: _Reading, before: _Reading) -> dict[str, Tensor]:
    """Return what the figures are drawn of: spectra, circles, the neurons, and the activations of one of them over all pairs."""
    W, shares = number_embedding(after.model), after.neurons()
    best = shares.max(0)
    name = "blocks.0.mlp.post"
    _, cache = run_with_cache(after.model, after.sums.tokens, name, pos=-1)
    clearest = int(best.values.argmax())
    return {
        "spectrum": frequency_power(W),
        "key frequencies": torch.tensor(after.keys),
        "circles": torch.stack([in_plane(W, k) for k in after.keys]),
        "neurons": best.values,
        "neurons before": before.neurons().max(0).values,
        "neuron": cache[name][:, 0, clearest].reshape(after.sums.prime, -1),
        "its frequency": best.indices[clearest] + 1,
    }


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    """Draw the clocks, the spectrum, a neuron over all pairs, how clear neurons are, and what interventions do."""
    from cutaway.plots import arrows, bars, heatmap, histogram

    arrays = outcome.arrays
    prime, keys = len(arrays["neuron"]), arrays["key frequencies"].tolist()
    numbers = [str(number) for number in range(prime)]
    labels = ["hands turned", "random planes turned", "key waves alone", "other waves alone", "no key waves", "no other waves"]
    return {
        "Clocks of the key frequencies": arrows(
            {f"frequency {k}": circle.numpy() for k, circle in zip(keys, arrays["circles"], strict=True)},
            title="The numbers as hands of clocks", labels=numbers,
        ),
        "Spectrum of the embedding": bars(
            arrays["spectrum"].numpy(), labels=[f"frequency {k}" for k in range(1, len(arrays["spectrum"]) + 1)],
            title="The embedding is made of a few frequencies", label="share of its power", signed=False,
        ),
        "Interventions on the clocks": bars(
            arrays["interventions"].flatten().numpy(), labels=labels, title="The key frequencies carry the sum",
            label="share of answers as expected", signed=False,
        ),
        "One neuron over all sums": heatmap(
            arrays["neuron"].numpy(), rows=numbers, columns=numbers, title=f"One neuron, of frequency {int(arrays['its frequency'])}",
            row_title="a", column_title="b", label="activation at the sign =",
        ),
        "Frequencies of neurons": histogram(
            arrays["neurons"].numpy(), title="How much of a neuron is one frequency", x_label="share of its best frequency",
            y_label="neurons", limits=(0.0, 1.0),
        ),
        "Frequencies of neurons before training": histogram(
            arrays["neurons before"].numpy(), title="How much of a neuron is one frequency, before training",
            x_label="share of its best frequency",
            y_label="neurons", limits=(0.0, 1.0),
        ),
    }  # fmt: skip


EXPERIMENT = Experiment(
    id="modular-clock",
    title="Clocks in modular addition",
    claim=(
        "A transformer that has grokked addition writes numbers as hands of a few clocks, and its logits are cosines of how far each "
        "answer is from the sum on them. Turning one number's hands by n steps, in the planes of the clocks, moves the answer on by n; "
        "turning them by n 1/3 steps, to where no number's are, moves the cosines by as much."
    ),
    source=(
        "Nanda et al. 2023, Progress measures for grokking via mechanistic interpretability; Zhong et al. 2023, The Clock and the Pizza"
    ),
    scales={
        "small": Scale(config=SumsConfig(), minutes=0.8),
        "paper": Scale(config=SumsConfig(**PUBLISHED), memory_gib=2),
        "reduced": Scale(config=SumsConfig(prime=43, train_fraction=0.6, d_mlp=128, n_steps=900, learning_rate=8e-3)),
    },
    run=run,
    draw=draw,
    captions={
        "Clocks of the key frequencies": (
            "Every number is a hand on a clock for each key frequency: its embedding, seen in the plane of that frequency. The "
            "hands are about equally long and go round."
        ),
        "Spectrum of the embedding": (
            "How the power of the embedding is shared out among frequencies: a few, the key frequencies, hold nearly all."
        ),
        "Interventions on the clocks": (
            "Hands turned: answers that move on by n when the first number's hands are turned by n steps in the planes of the clocks, "
            "or as far in random planes of the space that these span. Waves alone, and no waves: right answers when only these "
            "frequencies are left in the embedding, or all but these. Key frequencies carry the sum, as many others do not."
        ),
        "One neuron over all sums": "The activation of the clearest neuron for every a and b: a pattern of waves of one frequency.",
        "Frequencies of neurons": (
            "How many neurons are waves of one frequency, and their products, to which share: at least half of them to 85 % or "
            "more."
        ),
        "Frequencies of neurons before training": "The same before training: hardly any neuron is.",
    },
)
