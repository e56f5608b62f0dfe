"""How few latents of a dictionary tell a label of texts, beside random directions and the activation's own coordinates."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.probing.activations import Labels, Spots, activations_of, labelled_spots
from cutaway.interp.probing.task import Label, Task
from cutaway.interp.result import Result
from cutaway.interp.rows import Texts, rows_of
from cutaway.interp.sae.dictionary import Dictionary, make_dictionary
from cutaway.interp.sae.shape import DictionaryConfig
from cutaway.interp.sae.sparse_probing import SparseProbe, sparse_probes
from cutaway.interp.sae.splicing import check_fits
from cutaway.language_model import LanguageModel
from cutaway.report import filled_table
from cutaway.runtime import seeded_generator

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["LatentProbes", "probe_latents"]

_KS = (1, 2, 5, 10, 20)
_N_NAMED = 5


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LatentProbes(Result):
    """Accuracies of probes on k latents; both classes count alike, so that 0.5 is chance."""

    title: ClassVar[str] = "Sparse probing"
    source: ClassVar[str] = 'Gurnee et al. 2023, "Finding Neurons in a Haystack: Case Studies with Sparse Probing"'

    said: str
    """The dictionary in words."""
    label: Label
    """What is told from the rest."""
    others: tuple[Label, ...]
    n_rows: int
    n_texts: int
    """How many texts, or sets of texts that belong together."""
    n_folds: int
    l0: float
    """Latents above zero in a row, in the mean."""
    latents: tuple[SparseProbe, ...]
    coordinates: tuple[SparseProbe, ...]
    """Of the activation itself, on its k coordinates chosen in the same way."""
    random: tuple[tuple[float, ...], ...]
    """Accuracies on k latents of random dictionaries, which keep as many a row: those of each draw."""
    dense: float
    """Of a probe on all coordinates."""

    @property
    def ks(self) -> tuple[int, ...]:
        """How many latents the probes have."""
        return tuple(each.k for each in self.latents)

    @property
    def series(self) -> dict[str, list[float]]:
        """The accuracies over k, by what the probes read; random dictionaries in the mean of their draws."""
        random = [sum(draws) / len(draws) for draws in zip(*self.random, strict=True)]
        found = {"latents": [each.accuracy for each in self.latents], "random latents": random}
        return found | {"coordinates": [each.accuracy for each in self.coordinates]}

    def summary(self) -> str:
        """Return what few latents tell, beside what all coordinates do."""
        first, last = self.latents[0], self.latents[-1]
        named = ", ".join(map(str, last.features[:_N_NAMED]))
        beside = {name: values[0] for name, values in self.series.items() if name != "latents"}
        against = ", ".join(f"{name} {100 * value:.1f} %" for name, value in beside.items())
        return (
            f"{self.label} is told from {' and '.join(map(str, self.others))} with {first.k} of the {self.said} in "
            f"{100 * first.accuracy:.1f} % of the texts held out (both classes count alike, so chance is 50 %; {against}), with "
            f"{last.k} in {100 * last.accuracy:.1f} %, and with all coordinates in {100 * self.dense:.1f} %. Latents whose means "
            f"differ most: {named}. {self.n_rows:,} rows of {self.n_texts:,} texts in {self.n_folds} folds; {self.l0:.1f} latents a "
            "row, as in the random dictionaries."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all probes and what stands beside them."""
        return {
            "dictionary": self.said,
            "label": self.label,
            "others": list(self.others),
            "n_rows": self.n_rows,
            "n_texts": self.n_texts,
            "n_folds": self.n_folds,
            "l0": self.l0,
            "latents": [asdict(each) for each in self.latents],
            "coordinates": [asdict(each) for each in self.coordinates],
            "random": [list(each) for each in self.random],
            "dense": self.dense,
        }

    def figures(self) -> Sequence[Figure]:
        """Return the accuracies over k."""
        from cutaway.plots import lines

        drawn = self.series | {"all coordinates": [self.dense] * len(self.ks)}
        series = {name: (list(self.ks), values) for name, values in drawn.items()}
        return [
            lines(
                series, title=f"How few latents tell {self.label}", x_label="latents or coordinates, k", y_label="accuracy held out"
            )
        ]

    def views(self) -> Sequence[RenderableType]:
        """Return the accuracies as a table."""
        headers, rows = self.table()
        return [filled_table(headers, rows, right=headers)]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return a line for each k, and the probe on all coordinates."""
        rows = [
            [str(k), *(f"{100 * value:.1f} %" for value in values)]
            for k, *values in zip(self.ks, *self.series.values(), strict=True)
        ]
        return ["k", *self.series], [*rows, ["all", "", "", f"{100 * self.dense:.1f} %"]]


def probe_latents(
    lm: LanguageModel,
    dictionary: Dictionary,
    texts: Texts,
    labels: Labels,
    *,
    pos: int | None = -1,
    label: Label | None = None,
    groups: Sequence[Hashable] | Tensor | None = None,
    ks: Sequence[int] = _KS,
    l2: float = 1e-3,
    n_folds: int = 5,
    n_random: int = 3,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> LatentProbes:
    """Return how well a label of texts is told from k latents at a position, or with None at every labelled token.

    `label` is the class that is told from all others: of two the second unless given. `groups` says which texts belong together. Beside
    the latents stand the activation's own coordinates, chosen alike, `n_random` dictionaries of random directions with as many latents
    a row, and a probe on all coordinates. Raises ValueError for a dictionary that does not fit the model, for labels of one class, for
    more than two without a `label`, and as `sparse_probes` does. Source: Gurnee et al. 2023.
    """
    check_fits(dictionary, lm.model)
    if n_random < 1:
        raise ValueError(f"{n_random} random dictionaries were asked for: give at least 1 to compare with")
    config = dictionary.config
    spots, task = labelled_spots(rows_of(lm, texts), labels, pos=pos, groups=groups)
    chosen = _chosen(task, label)
    x, latents = _encoded(lm, dictionary, spots)
    if wrong := [k for k in ks if k > x.shape[1]]:
        raise ValueError(f"k is {wrong[0]}; expected at most {x.shape[1]}, the number of coordinates that stand beside the latents")
    l0 = (latents > 0).sum(1).double().mean().item()
    random = [_random_latents(x, config.d_sae, l0, seed=seed + draw) for draw in range(n_random)]
    is_label = task.targets == task.classes.index(chosen)
    asked = [(latents, ks), (x, ks), *((rows, ks) for rows in random), (x, [x.shape[1]])]
    probed = []
    for rows, each in asked:
        probed.append(tuple(sparse_probes(rows, is_label, groups=task.groups, ks=each, l2=l2, n_folds=n_folds, seed=seed)))
        if progress is not None:
            progress(len(probed), len(asked))
    of_latents, of_coordinates, *of_random, dense = probed
    return LatentProbes(
        said=f"{config.d_sae:,} latents of {config.name}",
        label=chosen,
        others=tuple(each for each in task.classes if each != chosen),
        n_rows=len(task),
        n_texts=task.n_groups,
        n_folds=n_folds,
        l0=l0,
        latents=of_latents,
        coordinates=of_coordinates,
        random=tuple(tuple(each.accuracy for each in probes) for probes in of_random),
        dense=dense[0].accuracy,
    )


def _encoded(lm: LanguageModel, dictionary: Dictionary, spots: Spots) -> tuple[Float[Tensor, "row d"], Float[Tensor, "row d_sae"]]:
    """Return what the dictionary reads at these spots, and its latents."""
    name = dictionary.config.name
    with torch.no_grad():
        x = activations_of(lm, name, [spots])[name][0]
        return x, dictionary.encode(x.to(dictionary.W_enc)).cpu()


def _chosen(task: Task, label: Label | None) -> Label:
    """Return the class that is told from the others."""
    known = {str(each): each for each in task.classes}
    if label is None and len(known) == 2:
        return task.classes[1]
    if label is None or str(label) not in known:
        what = f"the labels are {len(known)} classes" if label is None else f"there is no class {label!r}"
        raise ValueError(f"{what}: name the one that is told from the others, {', '.join(known)}")
    return known[str(label)]


def _random_latents(x: Float[Tensor, "row d"], d_sae: int, l0: float, *, seed: int) -> Float[Tensor, "row d_sae"]:
    """Return the latents of random directions about the rows' mean, the largest of each row, as many as the dictionary has."""
    k = min(max(1, round(l0)), d_sae)
    shape = DictionaryConfig(kind="topk", d_in=x.shape[1], d_sae=d_sae, k=k)
    made = make_dictionary(shape, generator=seeded_generator(seed)).to(x)
    with torch.no_grad():
        made.b_dec.copy_(x.mean(0))
        return made.encode(x)
