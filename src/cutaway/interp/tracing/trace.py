"""Causal tracing: which states of the clean run bring the answer back into a run whose subject was corrupted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.interp import edits
from cutaway.interp.alignment import Alignment, n_shared
from cutaway.interp.cache import ActivationCache
from cutaway.interp.edits import Edit
from cutaway.interp.metrics import Metric
from cutaway.interp.patching import BANDS_IN_WORDS, MetricName, align_prompts, band, check_gap, read_question
from cutaway.interp.prompts import Prompts, read_prompts
from cutaway.interp.result import Result
from cutaway.interp.running import run_with_cache
from cutaway.interp.sites import full_name
from cutaway.interp.sweep import sweep
from cutaway.language_model import LanguageModel
from cutaway.report.tokens import token_label
from cutaway.runtime import seeded_generator
from cutaway.views import without_dropout

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["TraceResult", "trace", "restored_words"]

_SITES = ("resid_post", "mlp_out", "attn_out")
"""What is restored unless it is said."""
_WORDS = {"resid_post": "the stream after a layer", "mlp_out": "MLP outputs", "attn_out": "attention outputs"}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TraceResult(Result):
    """The metric of every run with some states restored, beside those of the clean and of the corrupted runs."""

    title: ClassVar[str] = "Causal tracing"
    source: ClassVar[str] = "causal tracing (Meng et al. 2022, Locating and Editing Factual Associations in GPT, section 2.1)"

    tokens: tuple[str, ...]
    """The tokens of the clean prompt at the positions that are restored."""
    positions: tuple[int, ...]
    """Their positions in the clean prompt."""
    subject: tuple[int, ...]
    """Those of them that were corrupted."""
    places: tuple[int, ...]
    """Where the subject is in the clean prompt, with a partner or without."""
    n_tokens: int
    """How many tokens the clean prompt has."""
    corruption: str
    """What was done to the prompt, in words."""
    measured: str
    """The metric in words."""
    clean: float
    """The metric of the clean run."""
    corrupted: Float[Tensor, " draw"]
    """The metric of each corrupted run."""
    restored: Mapping[str, Float[Tensor, "layer pos draw"]]
    """The metric of each corrupted run with states restored around a layer at a position, by what was restored."""
    windows: Mapping[str, int]
    """How many layers are restored together."""
    alignment: Alignment | None = None
    notes: tuple[str, ...] = ()

    @property
    def total_effect(self) -> float:
        """The clean metric less the corrupted one, averaged over draws."""
        return self.clean - float(self.corrupted.mean())

    @property
    def effects(self) -> dict[str, Float[Tensor, "layer pos"]]:
        """The indirect effect (mean over draws): the restored metric less the corrupted one; for more prompts see `average_trace`."""
        return {site: (values - self.corrupted).mean(-1) for site, values in self.restored.items()}

    def best(self, site: str, *, within: Sequence[int] | None = None) -> tuple[int, int, float]:
        """Return the layer and position with the largest effect, of all or some positions, and that as a share of the total effect.

        The stream that the answer is read from is left out, as it brings all back by definition: the last position's at the end.
        """
        places = [place for place, pos in enumerate(self.positions) if within is None or pos in within]
        effects = self.effects[site].clone()
        effects[self._is_read(site), -1] = -torch.inf * self.total_effect
        shares = effects[:, places] / self.total_effect
        layer, place = divmod(int(shares.argmax()), len(places))
        return layer, self.positions[places[place]], float(shares[layer, place])

    def summary(self) -> str:
        """Return both runs' metric, the total effect, and where restoring most brings back."""
        n_draws = len(self.corrupted)
        runs = f" (mean of {n_draws} draws)" if n_draws > 1 else ""
        sentences = [
            f"{self.corruption} The {self.measured} goes from {self.clean:.4g} to {float(self.corrupted.mean()):.4g}{runs}: a total "
            f"effect of {self.total_effect:.4g}."
        ]
        for site in self.restored:
            sentences.append(f"Restoring {self._restored(site)} {self._where(site)}.")
        sentences.append(f"{BANDS_IN_WORDS}.")
        sentences += [f"{note}." for note in self.notes]
        sentences += [skipped] if self.alignment and (skipped := self.alignment.sentence()) else []
        return " ".join(sentences)

    def to_dict(self) -> dict[str, Any]:
        """Return settings, the metric of both runs and of each draw, and the indirect effects."""
        return {
            "tokens": list(self.tokens),
            "positions": list(self.positions),
            "subject": list(self.subject),
            "corruption": self.corruption,
            "metric": self.measured,
            "notes": list(self.notes),
            "alignment": None if self.alignment is None else self.alignment.to_dict(),
            "clean": self.clean,
            "corrupted": self.corrupted.tolist(),
            "total_effect": self.total_effect,
            "windows": dict(self.windows),
            "effects": {site: effect.tolist() for site, effect in self.effects.items()},
            "restored": {site: values.mean(-1).tolist() for site, values in self.restored.items()},
        }

    def figures(self) -> list[Figure]:
        """Return a heat map for each kind of state, by layer and position."""
        from cutaway.plots import heatmap

        return [
            heatmap(
                effect.numpy(force=True),
                rows=[str(layer) for layer in range(len(effect))],
                columns=self._labels(),
                title=f"Restoring {self._restored(site)}",
                row_title="layer",
                column_title="position",
                label=f"indirect effect on the {self.measured}{self._over_draws}",
                signed=True,
            )
            for site, effect in self.effects.items()
        ]

    def views(self) -> list[RenderableType]:
        """Return a grid for each kind of state, in percent of the total effect."""
        from rich.console import Group
        from rich.text import Text

        from cutaway.report.grid import grid

        shown: list[RenderableType] = [] if self.alignment is None else [self.alignment.view(title="Prompts")]
        for site, effect in self.effects.items():
            percent = (100 * effect / self.total_effect).numpy(force=True)
            rows = [str(layer) for layer in range(len(percent))]
            cells = grid(percent, rows=rows, columns=self._labels(), signed=True, digits=0, corner="layer")
            shown.append(
                Group(Text(f"{self._restored(site)}, restored: % of the total effect{self._over_draws}", style="bold"), cells)
            )
        return shown

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the best layer of each position and kind of state."""
        rows = []
        for site, effect in self.effects.items():
            for place, label in enumerate(self._labels()):
                layer = int((effect[:, place] / self.total_effect).argmax())
                value = float(effect[layer, place])
                rows.append([site, label, str(layer), f"{value:.4g}", f"{100 * value / self.total_effect:.1f}"])
        return ["restored", "position", "best layer", f"indirect effect{self._over_draws}", "% of the total"], rows

    @property
    def _over_draws(self) -> str:
        return " (mean over draws)" if len(self.corrupted) > 1 else ""

    def _labels(self) -> list[str]:
        return [f"{pos} {token_label(token)}" for pos, token in zip(self.positions, self.tokens, strict=True)]

    def _place(self, best: tuple[int, int, float]) -> str:
        layer, pos, share = best
        return f"layer {layer}, {self._labels()[self.positions.index(pos)]} ({100 * share:.1f} %, {band(share)})"

    def _where(self, site: str) -> str:
        """Return where in the subject most comes back, then where else."""
        others = [pos for pos in self.positions if pos not in self.subject]
        inside, outside = (self.best(site, within=part) if part else None for part in (self.subject, others))
        n_read = int(self._is_read(site).sum())
        layers = "the last layer" if n_read == 1 else f"the last {n_read} layers"
        left_out = f", not counting the last position in {layers}, which the answer is read from" if n_read else ""
        if inside is None or not math.isfinite(inside[2]):
            return f"brings most back at {self._place(self.best(site))}{left_out}"
        said = f"within the subject brings most back at {self._place(inside)}"
        if outside is not None and math.isfinite(outside[2]):
            said += f"; elsewhere at {self._place(outside)}{left_out}"
        return said

    def _is_read(self, site: str) -> Bool[Tensor, " layer"]:
        """Return around which layers what is restored at the last position is all that the answer is read from."""
        n_layers = len(self.effects[site])
        has_last = self.alignment is None or self.positions[-1] == len(self.alignment.clean) - 1
        if site not in ("resid_mid", "resid_post") or not has_last:
            return torch.zeros(n_layers, dtype=torch.bool)
        return torch.tensor([_window_end(layer, self.windows[site], n_layers) == n_layers for layer in range(n_layers)])

    def _restored(self, site: str) -> str:
        return restored_words(site, self.windows[site])


def restored_words(site: str, window: int) -> str:
    """Return what is restored in words."""
    words = _WORDS.get(site, site)
    return words if window == 1 else f"{words} of {window} layers"


def trace(
    lm: LanguageModel,
    text: str,
    subject: str,
    target: str | int,
    wrong: str | int | None = None,
    *,
    replacement: str | None = None,
    source: str | None = None,
    sites: Sequence[str] | None = None,
    window: int | None = None,
    noise: float = 3.0,
    n_draws: int = 10,
    metric: MetricName | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> TraceResult:
    """Corrupt a prompt's subject and restore clean states one layer and position at a time: which of them bring the answer back.

    The embeddings of the subject's tokens get Gaussian noise of `noise` times the standard deviation of all numbers of `W_E`, in
    `n_draws` runs of their own; or `replacement`, another subject, stands in its place. Meng et al. measure that deviation on the
    embeddings of tokens as they occur in text, where frequent ones count more, and here each token of the vocabulary counts once: 3 of
    theirs and 3 of these are noise of different size. At each position the stream after a layer is restored, or MLP or
    attention outputs in a `window` of layers around it, a fifth of the model unless given; `sites` name some of these three
    alone. Positions before the subject are 0: nothing changes them. The metric is `logit_diff` where a wrong answer is given
    and `prob` where none is. As a control, `source` is another prompt of as many tokens whose states come in instead of the
    clean run's, which should bring nothing back. Raises ValueError for a subject that is not in the text, for prompts that do
    not align, and where the corruption changes nothing.

    Source: Meng et al. 2022, "Locating and Editing Factual Associations in GPT", section 2.1; Zhang and Nanda 2023 for another
    subject in place of noise.

    >>> import cutaway
    >>> from cutaway import tracing
    >>> lm = cutaway.load("factual-recall")
    >>> tracing.trace(lm, "we know that Ada Abel plays the", "Ada Abel", "organ").effects["mlp_out"].shape  # layer pos
    torch.Size([2, 7])
    """
    prompts = read_prompts(lm, text)
    question = read_question(lm, target, wrong, after=prompts, metric=metric or ("prob" if wrong is None else "logit_diff"))
    windows = _windows(lm.config, sites, window)
    if replacement is None:
        corruption = _noise(lm, prompts, subject, noise=noise, n_draws=n_draws, seed=seed)
    else:
        corruption = _replaced(lm, prompts, text, subject, replacement)
    names = [full_name(lm.config, site, layer) for site in windows for layer in range(lm.config.n_layers)]
    lm = replace(lm, model=without_dropout(lm.model))
    logits, cache = run_with_cache(lm.model, prompts.tokens, names)
    assert logits is not None
    if source is not None:
        _, cache = run_with_cache(lm.model, _as_long(lm, source, prompts).tokens, names)
    scores = _scores(lm, cache, corruption, windows, question.metric, progress)
    base, clean = scores[-1], question.metric(logits)
    check_gap(base, clean, logits, question.words, is_prob=question.name == "prob")
    by_site = scores[:-1].unflatten(0, (len(windows), lm.config.n_layers, len(corruption.pairs)))  # site layer pos draw
    return TraceResult(
        tokens=tuple(lm.text([prompts.row(0)[pos]]) for pos, _ in corruption.pairs),
        positions=tuple(pos for pos, _ in corruption.pairs),
        subject=tuple(pos for pos, _ in corruption.pairs if pos in corruption.places),
        places=corruption.places,
        n_tokens=prompts.lengths[0],
        corruption=corruption.words,
        measured=question.words,
        clean=float(clean),
        corrupted=base,
        restored=dict(zip(windows, by_site, strict=True)),
        windows=windows,
        alignment=corruption.alignment,
        notes=(*question.notes, *(() if source is None else (f"The states that are restored are those of {source!r}",))),
    )


def _as_long(lm: LanguageModel, source: str, prompts: Prompts) -> Prompts:
    """Return another prompt; raises ValueError for one that has not as many tokens."""
    other = read_prompts(lm, source)
    if other.lengths != prompts.lengths:
        raise ValueError(
            f"the source {source!r} has {other.lengths[0]} tokens and the prompt {prompts.lengths[0]}: give one of as many tokens"
        )
    return other


@dataclass(frozen=True, eq=False)
class _Corruption:
    tokens: Tensor  # draw pos
    edits: tuple[Edit, ...]
    pairs: tuple[tuple[int, int], ...]  # (clean, corrupted) positions
    places: tuple[int, ...]  # the subject's positions in the clean prompt
    first: int  # the first position in the corrupted run that differs
    words: str
    alignment: Alignment | None = None


def _windows(config: ModelConfig, sites: Sequence[str] | None, window: int | None) -> dict[str, int]:
    """Return how many layers are restored together: one of the stream, a fifth of the model of what is added to it, unless given."""
    n_layers = config.n_layers
    if sites is None:
        sites = [site for site in _SITES if site != "mlp_out" or config.d_mlp != 0]
    if not sites:
        raise ValueError("sites are empty: name what to restore, resid_post, mlp_out or attn_out")
    if window is not None and not 1 <= window <= n_layers:
        raise ValueError(f"window is {window}; expected 1 to {n_layers} layers")
    return {site: window or (1 if site.startswith("resid") else max(1, round(n_layers / 5))) for site in sites}


def _noise(lm: LanguageModel, prompts: Prompts, subject: str, *, noise: float, n_draws: int, seed: int) -> _Corruption:
    """Return the prompt with noise on the embeddings of its subject, drawn anew in each row."""
    if not noise > 0 or n_draws < 1:
        raise ValueError(f"noise is {noise} and draws {n_draws}; expected noise above 0 and at least one draw")
    ids, W_E = prompts.row(0), lm.model.embed.W_E.detach()
    places = _positions_of(lm, ids, subject)
    drawn = torch.randn(n_draws, len(places), lm.config.d_model, generator=seeded_generator(seed), dtype=torch.float64)
    named = ", ".join(token_label(lm.text([ids[pos]])) for pos in places)
    return _Corruption(
        tokens=prompts.tokens.expand(n_draws, -1),
        edits=(edits.add("embed", noise * W_E.std() * drawn.to(W_E), pos=places),),
        pairs=tuple((pos, pos) for pos in range(len(ids))),
        places=tuple(places),
        first=places[0],
        words=f"The embeddings of {named} get noise of {noise:g} standard deviations.",
    )


def _replaced(lm: LanguageModel, prompts: Prompts, text: str, subject: str, replacement: str) -> _Corruption:
    """Return the prompt with another subject."""
    places = _positions_of(lm, prompts.row(0), subject)
    other = read_prompts(lm, text.replace(subject, replacement, 1))
    alignment = align_prompts(lm, prompts, other)[0]
    return _Corruption(
        tokens=other.tokens,
        edits=(),
        pairs=alignment.pairs,
        places=tuple(places),
        first=n_shared(prompts.row(0), other.row(0)),
        words=f"{replacement} stands in the place of {subject}.",
        alignment=alignment,
    )


def _restore(lm: LanguageModel, cache: ActivationCache, site: str, layer: int, pair: tuple[int, int], window: int) -> list[Edit]:
    """Return the patches of a window of layers around one, cut off at the first and the last."""
    first, last = max(0, layer - window // 2), _window_end(layer, window, lm.config.n_layers)
    src, dst = pair
    return [edits.patch(full_name(lm.config, site, each), cache, pos=dst, src_pos=src) for each in range(first, last)]


def _window_end(layer: int, window: int, n_layers: int) -> int:
    return min(n_layers, layer + (window + 1) // 2)


def _scores(
    lm: LanguageModel,
    cache: ActivationCache,
    corruption: _Corruption,
    windows: Mapping[str, int],
    metric: Metric,
    progress: Callable[[int, int], None] | None,
) -> Float[Tensor, "variant draw"]:
    """Return the metric of the corrupted runs with each state restored, and at last without any."""
    first = corruption.first if lm.config.is_causal else 0  # nothing before it can change
    variants = [
        _restore(lm, cache, site, layer, pair, windows[site]) if pair[1] >= first else []
        for site, layer, pair in product(windows, range(lm.config.n_layers), corruption.pairs)
    ]
    return sweep(lm.model, corruption.tokens, [*variants, []], metric, base_edits=corruption.edits, progress=progress)


def _positions_of(lm: LanguageModel, ids: Sequence[int], subject: str) -> list[int]:
    """Return the positions of the tokens that a part of the text lies in, where it stands first."""
    pieces = [lm.tokenizer.decode_bytes([token]) for token in ids]
    start = b"".join(pieces).find(subject.encode()) if subject else -1
    if start < 0:
        raise ValueError(f"{subject!r} is not in the text, {lm.text(list(ids))!r}: give a part of it, letter by letter")
    end, found, at = start + len(subject.encode()), [], 0
    for pos, piece in enumerate(pieces):
        if at < end and at + len(piece) > start:
            found.append(pos)
        at += len(piece)
    return found
