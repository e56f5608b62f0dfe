"""What a dictionary costs the model: the loss with it spliced in, beside the loss without the activation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from cutaway.interp import edits, metrics
from cutaway.interp.edits import Edit
from cutaway.interp.result import Result
from cutaway.interp.running import means
from cutaway.interp.sae.activations import ModelActivations
from cutaway.interp.sae.dictionary import Dictionary
from cutaway.interp.sae.reconstruction import Reconstruction, measure_reconstruction
from cutaway.interp.sae.splicing import check_fits, splice, splice_transcoder
from cutaway.interp.sweep import sweep
from cutaway.interp.training_data import TrainingData
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.report import filled_table
from cutaway.views import without_dropout

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["Evaluation", "evaluate", "said_of_data"]

_LEAST_GAP = 0.1  # nats between the ablated and the clean loss, below which nothing is said to be recovered of it
_N_TOKENS = 4096  # evaluated at once


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Evaluation(Result):
    """A dictionary on text: how well it predicts activations, and what the model loses with it. Losses are in nats a token."""

    title: ClassVar[str] = "Evaluation of a dictionary"
    source: ClassVar[str] = (
        'Bricken et al. 2023, "Towards Monosemanticity" (loss recovered); Gao et al. 2024, "Scaling and evaluating sparse autoencoders"'
    )

    said: str
    """The dictionary in words."""
    n_tokens: int
    first: int
    """The positions before this one are left as they are, and are not measured."""
    reconstruction: Reconstruction
    loss: float
    """The model's own."""
    spliced_loss: float
    zero_loss: float
    """With zeros in the place of what is predicted."""
    mean_loss: float
    """With its mean over these rows there."""
    measured_on: str = ""
    """The text, and whether the dictionary learned from it, in a sentence."""

    @property
    def recovered_of_zero(self) -> float | None:
        """Which share of the loss that zeros cost the dictionary gives back; None where they cost less than 0.1 nats."""
        return self._recovered(self.zero_loss)

    @property
    def recovered_of_mean(self) -> float | None:
        """The same of the mean, which is harder to beat."""
        return self._recovered(self.mean_loss)

    def _recovered(self, ablated: float) -> float | None:
        gap = ablated - self.loss
        return (ablated - self.spliced_loss) / gap if gap >= _LEAST_GAP else None

    def summary(self) -> str:
        """Return variance unexplained beside PCA's, and loss recovered with the losses that it is made of."""
        found = self.reconstruction
        left = "one of each window left as it is" if self.first == 1 else f"{self.first} of each window left as they are"
        first = f", the first {left}" if self.first else ""
        return (
            f"{self.said}, on {self.n_tokens:,} tokens{first}. {100 * found.fvu:.1f} % of the variance is unexplained with "
            f"{found.l0:.1f} latents a row; as many principal components leave {100 * found.pca_fvu:.1f} %. "
            f"{100 * found.dead:.1f} % of the latents never fired. The loss is {self.loss:.4f} nats a token, {self.spliced_loss:.4f} "
            f"with the dictionary spliced in, {self.mean_loss:.4f} with the mean there and {self.zero_loss:.4f} with zeros: "
            f"recovered against the mean {_share(self.recovered_of_mean)}, against zeros {_share(self.recovered_of_zero)}."
            + (f" {self.measured_on}" if self.measured_on else "")
        )

    def to_dict(self) -> dict[str, Any]:
        """Return raw losses and what is made of them."""
        found = self.reconstruction
        return {
            "dictionary": self.said,
            "n_tokens": self.n_tokens,
            "measured_on": self.measured_on,
            "first": self.first,
            "fvu": found.fvu,
            "pca_fvu": found.pca_fvu,
            "l0": found.l0,
            "dead": found.dead,
            "loss": self.loss,
            "spliced_loss": self.spliced_loss,
            "zero_loss": self.zero_loss,
            "mean_loss": self.mean_loss,
            "recovered_of_zero": self.recovered_of_zero,
            "recovered_of_mean": self.recovered_of_mean,
            "density": found.density.tolist(),
        }

    def figures(self) -> Sequence[Figure]:
        """Return the losses, and how often latents fire."""
        from cutaway.plots import bars, histogram

        names = ["model", "dictionary", "mean", "zeros"]
        losses = [self.loss, self.spliced_loss, self.mean_loss, self.zero_loss]
        found = [bars(losses, labels=names, title="Loss with another activation", label="nats a token", signed=False)]
        density = self.reconstruction.density
        live = density[density > 0].log10().numpy(force=True)
        if len(live):
            found.append(histogram(live, title="How often latents fire", x_label="log10 of density", y_label="latents"))
        return found

    def views(self) -> Sequence[RenderableType]:
        """Return the numbers as a table."""
        headers, rows = self.table()
        return [filled_table(headers, rows, right=headers[1:])]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return the losses, and beside the dictionary's what it recovers of those of the mean and of zeros."""
        rows = [
            ["the model's own", f"{self.loss:.4f}", "", ""],
            ["the dictionary's", f"{self.spliced_loss:.4f}", _share(self.recovered_of_mean), _share(self.recovered_of_zero)],
            ["the mean", f"{self.mean_loss:.4f}", "", ""],
            ["zeros", f"{self.zero_loss:.4f}", "", ""],
        ]
        return ["activation", "nats a token", "recovered against the mean", "against zeros"], rows


def evaluate(
    lm: LanguageModel | Transformer,
    dictionary: Dictionary,
    tokens: Int[Tensor, "window pos"],
    *,
    first: int = 1,
    data: TrainingData | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Return how well a dictionary predicts activations on windows of tokens, and what it costs the model in loss.

    The first `first` positions are left as they are: the stream of a trained model is often many times longer at the first than
    anywhere else, and a dictionary trained without it knows nothing of it. Their loss counts all the same. Loss recovered is
    `(L_ablated - L_spliced) / (L_ablated - L_clean)`. With `data`, of whose held-out part the windows are, the result says whether the
    dictionary may have learned from them. Raises ValueError for a dictionary that does not fit the model, and for windows of one token.
    """
    model = lm.model if isinstance(lm, LanguageModel) else lm
    check_fits(dictionary, model)
    config, n_pos = dictionary.config, tokens.shape[1]
    if n_pos <= max(first, 1):
        raise ValueError(f"the windows have {n_pos} tokens and the first {first} are left as they are: give longer ones")
    source = ModelActivations(model, tokens, config.row_names, first=first)
    windows = tokens.split(max(1, _N_TOKENS // n_pos))
    n_done, losses = 0, torch.zeros(4, dtype=torch.float64)
    model = without_dropout(model)
    with torch.inference_mode():
        told = None if progress is None else lambda n, n_all: progress(n, 2 * n_all)
        found = measure_reconstruction(dictionary, source.in_order(told))
        variants = _variants(model, dictionary, tokens, first)
        for part in windows:
            scores = sweep(model, part, variants, metrics.loss(part))
            losses += scores.double().sum(1).cpu()
            n_done += len(part)
            if progress is not None:
                progress(len(tokens) + n_done, 2 * len(tokens))
    clean, spliced, zero, mean = (losses / len(tokens)).tolist()
    return Evaluation(
        said=_said(dictionary), n_tokens=tokens.numel(), first=first, reconstruction=found, loss=clean, spliced_loss=spliced,
        zero_loss=zero, mean_loss=mean, measured_on="" if data is None else said_of_data(config.trained_on, data),
    )  # fmt: skip


def _variants(model: Transformer, dictionary: Dictionary, tokens: Int[Tensor, "window pos"], first: int) -> list[list[Edit]]:
    """Return the edits of the four runs: none, the dictionary, zeros, the mean over all windows from `first` on."""
    config, pos = dictionary.config, range(first, tokens.shape[1])
    name = config.target or config.name
    spliced = splice_transcoder(dictionary, pos=pos) if config.is_transcoder else [splice(dictionary, pos=pos)]
    mean = means(model, tokens, name, over_positions=False)[name][first:].mean(0)
    return [[], spliced, [edits.zero(name, pos=pos)], [edits.mean(name, mean, pos=pos)]]


def said_of_data(learned: TrainingData | None, measured: TrainingData) -> str:
    """Return a sentence on what is measured on, the held-out part of a text, and whether a dictionary learned from it."""
    part = (
        f"Measured on the last {measured.n_tokens - measured.n_learned:,} of the {measured.n_tokens:,} tokens of {measured.source}"
    )
    if learned is None:
        return f"{part}; the dictionary does not say what it learned from."
    if learned.sha256 is None or learned.sha256 != measured.sha256:
        return f"{part}. The dictionary learned from {learned}: whether these tokens were among them is not known."
    n_seen = learned.n_learned - measured.n_learned
    if n_seen <= 0:
        return f"{part}, which were held out from training."
    return f"{part}, of which the dictionary may have learned from {n_seen:,}."


def _said(dictionary: Dictionary) -> str:
    config = dictionary.config
    k = f", k {config.k}" if config.k is not None else ""
    return f"{config.d_sae:,} latents ({config.kind}{k}) of {config.name}" + (
        f" to {config.target}" if config.is_transcoder else ""
    )


def _share(value: float | None) -> str:
    return "nothing to recover" if value is None else f"{100 * value:.1f} %"
