"""Sparse autoencoders find features that are known: 256 directions in 64 coordinates, of which few are there at a time."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway import sae
from cutaway.experiments.frame import Check, Experiment, Outcome, Scale, Training, Trial
from cutaway.runtime import atomic_write, seeded_generator
from cutaway.values import read_object

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "Config", "Sweep", "recipes", "run", "draw"]

_Kind = Literal["topk", "jumprelu", "relu"]
_Value = TypeVar("_Value")
_KINDS: tuple[_Kind, ...] = ("topk", "jumprelu", "relu")
_NAMES = {"topk": "TopK", "jumprelu": "JumpReLU", "relu": "ReLU with L1"}
_FOUND = 0.9  # the cosine from which a feature counts as found
_CONFIG, _TIME_S, _SOURCES = "config", "time_s", "sources"  # of the file beside a dictionary


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """How long a kind of dictionary is trained, and how hard it is held to few latents: the middle one is judged."""

    n_steps: int
    k: tuple[int, ...] = ()
    sparsity: tuple[float, ...] = ()
    """What the penalty is multiplied with, of kinds without k."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The features, and how each kind of dictionary is trained on them."""

    n_features: int = 256
    d: int = 64
    probability: float = 0.0117
    """How likely each feature is there: three a row in the mean."""
    topk: Sweep = Sweep(n_steps=700, k=(2, 3, 5))
    jumprelu: Sweep = Sweep(n_steps=2000, sparsity=(0.01, 0.02, 0.04))
    relu: Sweep = Sweep(n_steps=1400, sparsity=(0.1, 0.2, 0.4))
    batch_size: int = 256
    learning_rate: float = 1e-2
    dead_after: int = 10_000
    n_rows: int = 20_000
    """On how many rows, drawn anew, dictionaries are judged."""


class _Found(NamedTuple):
    """A dictionary, how near each true feature's direction is to one of its own, and how well it predicts rows."""

    cosines: Float[Tensor, " feature"]
    rows: sae.Reconstruction


def recipes(config: Config, kind: _Kind, *, seed: int) -> dict[str, sae.SAEConfig]:
    """Return how the dictionaries of a kind are trained, by name, as its sweep goes."""
    sweep: Sweep = getattr(config, kind)
    found = {}
    for k, sparsity in [*((k, 0.0) for k in sweep.k), *((None, sparsity) for sparsity in sweep.sparsity)]:
        found[f"{kind} k {k}" if k else f"{kind} sparsity {sparsity:g}"] = sae.SAEConfig(
            dictionary=sae.DictionaryConfig(kind=kind, d_in=config.d, d_sae=config.n_features, k=k), n_steps=sweep.n_steps,
            batch_size=config.batch_size, learning_rate=config.learning_rate, sparsity=sparsity, dead_after=config.dead_after,
            log_every=100, seed=seed,
        )  # fmt: skip
    return found


def run(config: Config, trial: Trial) -> Outcome:
    """Train each kind three times, from many latents a row to few, and TopK on rows without features."""
    known = sae.SyntheticFeatures.random(
        config.n_features, config.d, probability=config.probability, seed=trial.seed_for("features")
    )
    judged = known.draw(config.n_rows, trial.generator("judged"))
    found: dict[str, list[_Found]] = {}
    seed = trial.seed_for("dictionaries")
    for kind in _KINDS:
        for name, recipe in recipes(config, kind, seed=seed).items():
            trained = _learn(name, recipe, known, trial)
            cosines = sae.best_cosines(known.directions, trained.W_dec)
            found.setdefault(kind, []).append(_Found(cosines, sae.measure_reconstruction(trained, [judged])))
    dense = _Dense(known, trial.seed_for("dense"))
    without = _learn("topk without features", _middle(list(recipes(config, "topk", seed=seed).values())), dense, trial)
    nulls = {
        "random": sae.best_cosines(known.directions, sae.random_dictionary(config.n_features, config.d, seed=seed)),
        "without": sae.best_cosines(known.directions, without.W_dec),
    }
    chosen = {kind: _middle(each) for kind, each in found.items()}
    return Outcome(
        checks=tuple(_checks(chosen, nulls)),
        numbers={
            **_numbers(chosen),
            "random directions: cosine of a true feature with its nearest, mean": nulls["random"].mean().item(),
        },
        arrays={
            **{f"{kind} cosines": each.cosines for kind, each in chosen.items()},
            **{f"{name} cosines": cosines for name, cosines in nulls.items()},
            **{
                f"{kind} curve": torch.tensor([[each.rows.l0, each.rows.fvu] for each in sweep], dtype=torch.float64)
                for kind, sweep in found.items()
            },
            "features a row": torch.tensor(config.n_features * config.probability),
        },
    )


@dataclass(frozen=True)
class _Dense:
    """Rows with the mean and the covariance of known features in the same directions, but normal: nothing in them is sparse."""

    known: sae.SyntheticFeatures
    seed: int

    def batches(self, batch_size: int, *, seed: int, n_epochs: int = 1) -> Iterator[Float[Tensor, "batch d"]]:
        """Yield rows drawn anew."""
        generator = seeded_generator(self.seed + seed)
        mean, deviation = self.moments()
        for _ in range(n_epochs * -(-self.known.n_rows // batch_size)):
            sizes = torch.randn(batch_size, len(self.known.directions), generator=generator)
            yield (mean + deviation * sizes) @ self.known.directions

    def moments(self) -> tuple[float, float]:
        """Return mean and standard deviation of a feature's size, 0 where it is not there, otherwise uniform."""
        p, (low, high) = self.known.probability, self.known.sizes
        mean, square = p * (low + high) / 2, p * (low**2 + low * high + high**2) / 3
        return mean, (square - mean**2) ** 0.5


def _learn(name: str, config: sae.SAEConfig, rows: sae.ActivationSource, trial: Trial) -> sae.Dictionary:
    """Train a dictionary, or read the one that was trained under this name before, if that was trained so too."""
    folder = None if trial.folder is None else trial.folder / name.replace(" ", "-")
    recipe: dict[str, Any] = json.loads(json.dumps(config.to_dict()))
    if folder is not None and (about := _kept(folder, recipe)):
        trial.trainings[name] = Training(recipe=recipe, sources=about[_SOURCES], earlier_s=float(about[_TIME_S]))
        return sae.load_dictionary(folder)
    trial.trainings[name] = Training(recipe=recipe, sources=trial.sources)

    def progress(n_done: int, n_steps: int, point: sae.Point) -> None:
        trial.report(n_done, n_steps, f"{name}: loss {point.loss:.4g}")

    started = time.perf_counter()
    trained, _ = sae.train(config, rows, progress=progress)
    if folder is not None:
        _record(folder).unlink(missing_ok=True)  # it is of what was there before
        sae.save_dictionary(trained, folder)
        about = {_CONFIG: recipe, _TIME_S: time.perf_counter() - started, _SOURCES: trial.sources}
        atomic_write(_record(folder), json.dumps(about))
    return trained


def _record(folder: Path) -> Path:
    """Return the file beside a dictionary's folder that says how it was trained; it is written last."""
    return folder.with_name(f"{folder.name}.json")


def _kept(folder: Path, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a dictionary that was trained by this recipe and is there whole; nothing where there is no such."""
    about = read_object(_record(folder)) if _record(folder).is_file() else {}
    return about if about.get(_CONFIG) == recipe else {}


def _middle(values: Sequence[_Value]) -> _Value:
    return values[len(values) // 2]


def _share_found(cosines: Float[Tensor, " feature"]) -> float:
    return (cosines >= _FOUND).double().mean().item()


def _checks(chosen: Mapping[str, _Found], nulls: Mapping[str, Tensor]) -> Iterator[Check]:
    random = nulls["random"].mean().item()
    for kind, name in _NAMES.items():
        yield Check(
            name=f"{name}: cosine of a true feature with its nearest latent, mean", at_least=0.95,
            value=chosen[kind].cosines.mean().item(), null=random, null_of="untrained: random directions",
        )  # fmt: skip
    yield Check(
        name="TopK: share of true features found, with a cosine of at least 0.9", at_least=0.85,
        value=_share_found(chosen["topk"].cosines), null=_share_found(nulls["without"]), null_of="rows without features",
    )  # fmt: skip
    for kind in ("topk", "jumprelu"):
        rows = chosen[kind].rows
        yield Check(
            name=f"{_NAMES[kind]}: variance of the rows unexplained", unit=" %", at_most=25.0,
            value=100 * rows.fvu, null=100 * rows.pca_fvu, null_of="as many principal components",
        )  # fmt: skip


def _numbers(chosen: Mapping[str, _Found]) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for kind, name in _NAMES.items():
        cosines, rows = chosen[kind]
        numbers |= {
            f"{name}: share of true features found, to a cosine of 0.9": _share_found(cosines),
            f"{name}: latents a row": rows.l0,
            f"{name}: dead latents, per cent": 100 * rows.dead,
            f"{name}: variance unexplained, per cent": 100 * rows.fvu,
        }
    return numbers


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    """Draw how near each true feature is to one of a dictionary, and what each kind leaves unexplained with how many latents."""
    from cutaway.plots import lines, scatter

    arrays = outcome.arrays
    names = {**_NAMES, "without": "rows without features", "random": "random directions"}
    ranked = {name: arrays[f"{kind} cosines"].sort(descending=True).values.tolist() for kind, name in names.items()}
    curves = {name: tuple((arrays[f"{kind} curve"] * torch.tensor([1.0, 100.0])).T.tolist()) for kind, name in _NAMES.items()}
    curves["the true features"] = ([arrays["features a row"].item()], [0.0])
    return {
        "True features found": lines(
            {name: (list(range(1, len(values) + 1)), values) for name, values in ranked.items()},
            title="How near true features are to a dictionary's directions", x_label="true features, from the nearest on",
            y_label="best cosine",
        ),
        "Sparsity against what stays unexplained": scatter(
            curves, title="Few latents against little unexplained", x_label="latents a row", y_label="variance unexplained, %"
        ),
    }  # fmt: skip


EXPERIMENT = Experiment(
    id="sae-known-features",
    title="Sparse autoencoders find known features",
    claim=(
        "Of 256 directions in 64 coordinates, three of which make up a row, autoencoders of three kinds find most from rows "
        "alone; random directions do not come near them, nor does one that is trained on rows without sparse features."
    ),
    source="Sharkey et al. 2022, Taking features out of superposition; Bricken et al. 2023, Towards Monosemanticity",
    scales={
        "small": Scale(config=Config(), minutes=1.2),
        "reduced": Scale(
            config=Config(
                topk=Sweep(n_steps=700, k=(3,)),
                jumprelu=Sweep(n_steps=2000, sparsity=(0.02,)),
                relu=Sweep(n_steps=1400, sparsity=(0.2,)),
                n_rows=4000,
            ),
        ),
    },
    run=run,
    draw=draw,
    captions={
        "True features found": (
            "For every true feature the cosine with the nearest direction of a dictionary, sorted: 1 is found exactly. The three "
            "kinds of autoencoders find most features; random directions, and an autoencoder trained on rows without features, find "
            "none."
        ),
        "Sparsity against what stays unexplained": (
            "Each point is an autoencoder: how many latents it uses for a row, and how much of the rows it leaves unexplained; "
            "further down and left is better. The true features themselves would leave nothing, with three a row."
        ),
    },
)
