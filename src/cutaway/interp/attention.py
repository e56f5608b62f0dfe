"""Attention of a text: where every head looks, how much of it arrives, how widely and how far back it looks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from einops import einsum, repeat
from jaxtyping import Float, Int
from rich.text import Text
from torch import Tensor

from cutaway.interp.factored import W_O
from cutaway.interp.result import Result
from cutaway.interp.rows import one_row, token_texts
from cutaway.interp.running import run_with_cache
from cutaway.interp.sites import check_layers
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.report import attention_map, format_share, grid, table, token_label
from cutaway.views import without_dropout

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = [
    "Weighting",
    "AttentionPatterns",
    "attention_patterns",
    "weighted_pattern",
    "entropy",
    "entropy_share",
    "mean_distance",
    "head_label",
]

Weighting = Literal["attention", "value", "output"]
"""What a key counts: the attention it gets, that times the length of its value, or the length of what arrives in the stream from it."""

_N_MAPS = 4  # heads whose maps a terminal shows
_N_ROWS = 24  # heads in a table, and panels in a figure; more are a map of layers by heads
_N_TOKENS = 32  # tokens in the map that a terminal shows; half as many in each of several


def head_label(layer: int, head: int) -> str:
    """Return how a head is called in every view: `L5H2`."""
    return f"L{layer}H{head}"


def entropy(pattern: Float[Tensor, "*batch q_pos k_pos"]) -> Float[Tensor, "*batch q_pos"]:
    """Return the entropy in nats of what each query attends to: 0 for one key alone, ln n for n keys alike."""
    total: Tensor = torch.special.entr(pattern).sum(dim=-1)
    return total


def entropy_share(pattern: Float[Tensor, "*batch q_pos k_pos"], *, is_causal: bool = True) -> Float[Tensor, "*batch q_pos"]:
    """Return the entropy over the most that it can be, ln of the keys that a query sees; NaN for a query that sees one."""
    n_keys = _n_keys(pattern, is_causal)
    return torch.where(n_keys > 1, entropy(pattern) / n_keys.log(), math.nan)


def mean_distance(pattern: Float[Tensor, "*batch q_pos k_pos"]) -> Float[Tensor, "*batch q_pos"]:
    """Return how many positions away each query looks on average; queries are the last positions."""
    k_pos = torch.arange(pattern.shape[-1], device=pattern.device)
    q_pos = k_pos[-pattern.shape[-2] :]
    distances = (q_pos[:, None] - k_pos).abs().to(pattern.dtype)  # q_pos k_pos
    return (pattern * distances).sum(dim=-1)


def weighted_pattern(
    model: Transformer,
    layer: int,
    pattern: Float[Tensor, "batch head q_pos k_pos"],
    v: Float[Tensor, "batch k_pos kv_head d_head"],
    *,
    weighting: Weighting,
) -> Float[Tensor, "batch head q_pos k_pos"]:
    """Return a layer's pattern with each key's attention times how much it brings.

    "value" multiplies by the length of the key's value; "output" by that of what the head writes of it, `||alpha f(x)||` with
    `f(x) = (x W_V + b_V) W_O`, which is all that arrives: a key may get much attention and bring nothing.
    Source: Kobayashi et al. 2020, "Attention is Not Only a Weight", section 3.
    """
    if weighting == "attention":
        return pattern
    group = pattern.shape[1] // v.shape[2]
    if weighting == "value":
        norms = repeat(v.norm(dim=-1), "batch k_pos kv_head -> batch (kv_head group) 1 k_pos", group=group)
    else:
        of_head = repeat(v, "batch k_pos kv_head d_head -> batch k_pos (kv_head group) d_head", group=group)
        written = einsum(of_head, W_O(model, layer), "batch k_pos head d_head, head d_head d_model -> batch head k_pos d_model")
        norms = written.norm(dim=-1)[:, :, None]
    weighted: Tensor = pattern * norms
    return weighted


@dataclass(frozen=True, eq=False, repr=False)
class AttentionPatterns(Result):
    """Where heads look in one text."""

    title: ClassVar[str] = "Attention"
    source: ClassVar[str] = (
        "Vaswani et al. 2017, equation 1; weighted by what arrives, Kobayashi et al. 2020, "
        '"Attention is Not Only a Weight: Analyzing Transformers with Vector Norms"'
    )

    tokens: tuple[str, ...]
    heads: tuple[tuple[int, int], ...]
    """The layer and head of every pattern."""
    patterns: Float[Tensor, "head q_pos k_pos"]
    """What each query gives to each key, 1 in all."""
    values: Float[Tensor, "head q_pos k_pos"]
    """The same after weighting."""
    weighting: Weighting
    is_causal: bool

    @property
    def shares(self) -> Float[Tensor, "head q_pos k_pos"]:
        """What is shown: each query's values as shares of their sum."""
        return self.values / self.values.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(self.values.dtype).tiny)

    @property
    def entropy(self) -> Float[Tensor, " head"]:
        """The entropy of the shares in nats, mean over the queries that see more than one key."""
        return self._mean(entropy(self.shares))

    @property
    def entropy_share(self) -> Float[Tensor, " head"]:
        """The entropy over the most it can be, mean over the same queries: 0 for one key alone, 1 for all alike."""
        return self._mean(entropy_share(self.shares, is_causal=self.is_causal))

    @property
    def distance(self) -> Float[Tensor, " head"]:
        """How many positions away the heads look on average, over the same queries."""
        return self._mean(mean_distance(self.shares))

    def _mean(self, of_queries: Float[Tensor, "head q_pos"]) -> Float[Tensor, " head"]:
        return of_queries[:, int(self.is_causal) :].mean(dim=-1)

    @property
    def _unweighted(self) -> str:
        return {"attention": "", "value": ", by attention times |value|", "output": ", by what arrives of it"}[self.weighting]

    def summary(self) -> str:
        """Return how widely and how far back the heads look."""
        shares, distance = self.entropy_share.tolist(), self.distance.tolist()
        if len(self.heads) == 1:
            return (
                f"{head_label(*self.heads[0])} looks {distance[0]:.1f} positions back on average{self._unweighted}; its entropy is "
                f"{self.entropy[0]:.2f} nats, {format_share(shares[0], 1)} of the most possible."
            )
        order = sorted(range(len(shares)), key=shares.__getitem__)
        first, last = order[0], order[-1]
        return (
            f"{len(self.heads)} heads on {len(self.tokens)} tokens{self._unweighted}, looking {sum(distance) / len(distance):.1f} "
            "positions back on average. The most focused is "
            f"{head_label(*self.heads[first])} (entropy {format_share(shares[first], 1)} of the most possible), the widest "
            f"{head_label(*self.heads[last])} ({format_share(shares[last], 1)})."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return for every head its pattern, what is shown of it, and its entropy and distance."""
        numbers = zip(self.entropy.tolist(), self.entropy_share.tolist(), self.distance.tolist(), strict=True)
        return {
            "tokens": list(self.tokens),
            "weighting": self.weighting,
            "heads": [
                {
                    "layer": layer,
                    "head": head,
                    "entropy_nats": nats,
                    "entropy_share": share,
                    "mean_distance": distance,
                    "pattern": pattern.tolist(),
                    **({} if self.weighting == "attention" else {"weighted": values.tolist()}),
                }
                for (layer, head), pattern, values, (nats, share, distance) in zip(
                    self.heads, self.patterns, self.values, numbers, strict=True
                )
            ],
        }

    def figures(self) -> list[Figure]:
        """Return the patterns side by side, and of many layers a map of entropies and distances."""
        from cutaway import plots

        figures = []
        if self._is_wide:
            for name, values in (("Entropy, share of the most possible", self.entropy_share), ("Mean distance", self.distance)):
                rows, columns, matrix = self._by_layer(values)
                figures.append(
                    plots.heatmap(matrix, rows=rows, columns=columns, title=name, row_title="layer", column_title="head")
                )
        n = min(len(self.heads), _N_ROWS)
        if not self._is_wide:
            titles = [head_label(*each) for each in self.heads[:n]]
            patterns = self.shares[:n].numpy(force=True)
            figures.append(plots.attention(patterns, tokens=self.tokens, titles=titles, title=f"Attention{self._unweighted}"))
        return figures

    def views(self) -> list[RenderableType]:
        """Return the maps of a few heads, else a line for each head, else maps of layers by heads."""
        if self._is_wide:
            grids = (("entropy", self.entropy_share, 2), ("distance", self.distance, 1))
            views: list[RenderableType] = []
            for name, values, digits in grids:
                rows, columns, matrix = self._by_layer(values)
                views.append(grid(matrix, rows=rows, columns=columns, digits=digits, corner=name))
            return [*views, Text("Name a layer, a head or both (--layer, --head) to see where they look.")]
        is_few = len(self.heads) <= _N_MAPS
        maps = self.shares if is_few else self.shares.mean(dim=0, keepdim=True)
        names = [head_label(*each) for each in self.heads] if is_few else [f"mean of the {len(self.heads)} heads"]
        views = [] if len(self.heads) == 1 else [self._table()]
        n = min(len(self.tokens), _N_TOKENS if len(maps) == 1 else _N_TOKENS // 2)
        for name, pattern in zip(names, maps[:, :n, :n], strict=True):
            views += [
                Text(name, style="bold"),
                attention_map(pattern.numpy(force=True), tokens=self.tokens[:n]),
            ]
        if n < len(self.tokens):
            views.append(
                Text(f"The first {n} of {len(self.tokens)} tokens; the figure has all (--report), and so has JSON (--json).")
            )
        return views

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return how widely and how far each head looks, and which key gets most."""
        most, keys = (self.shares.sum(dim=1) / len(self.tokens)).max(dim=-1)  # head k_pos -> head
        columns = (self.entropy, self.entropy_share, self.distance, most, keys)
        rows = [
            (
                head_label(*head),
                f"{nats:.2f}",
                format_share(share, 1),
                f"{distance:.1f}",
                f"{key} {token_label(self.tokens[key])}",
                format_share(got, 1),
            )
            for head, nats, share, distance, got, key in zip(self.heads, *(each.tolist() for each in columns), strict=True)
        ]
        return ("head", "nats", "of the most", "distance", "most seen", "gets"), rows

    def _table(self) -> RenderableType:
        headers, rows = self.table()
        shown = table(*headers, right=("nats", "of the most", "distance", "gets"))
        for row in rows:
            shown.add_row(*row)
        return shown

    @property
    def _is_wide(self) -> bool:
        return len(self.heads) > _N_ROWS

    def _by_layer(self, values: Float[Tensor, " head"]) -> tuple[list[str], list[str], Any]:
        layers, heads = (sorted({each[axis] for each in self.heads}) for axis in (0, 1))
        matrix = values.unflatten(0, (len(layers), len(heads))).numpy(force=True)  # (layer head) -> layer head
        return [f"L{layer}" for layer in layers], [f"H{head}" for head in heads], matrix


def attention_patterns(
    lm: LanguageModel,
    text: str | Int[Tensor, "..."] | Sequence[int],
    *,
    layer: int | Sequence[int] | None = None,
    head: int | Sequence[int] | None = None,
    weighting: Weighting = "attention",
    bos: bool | None = None,
) -> AttentionPatterns:
    """Return where heads look in a text or a row of ids: all heads, or those of some layers, with some numbers.

    Negative layers and heads count from the end; layers after the last one asked for are not computed. `weighting` says what a key
    counts, as in `weighted_pattern`. Raises ValueError for layers and heads that are not there, for a text of one token, and for
    several texts.
    """
    model, config = lm.model, lm.config
    tokens = one_row(lm, text, bos=bos)
    if tokens.shape[1] < 2:
        raise ValueError("the text is one token, which has nothing but itself to look at; give a longer one")
    check_layers(config)
    layers = _numbers(layer, config.n_layers, "layer")
    heads = _numbers(head, config.n_heads, "head")
    names = [f"blocks.{each}.attn.{part}" for each in layers for part in ("pattern", "v")]
    model = without_dropout(model)
    with torch.inference_mode():
        _, cache = run_with_cache(model, tokens, names, stop_after_layer=max(layers))
        patterns = {each: cache["pattern", each] for each in layers}  # batch head q_pos k_pos
        weighted = {each: weighted_pattern(model, each, patterns[each], cache["v", each], weighting=weighting) for each in layers}
    return AttentionPatterns(
        tokens=tuple(token_texts(lm, tokens[0])),
        heads=tuple((each, number) for each in layers for number in heads),
        patterns=torch.cat([patterns[each][0, heads] for each in layers]),
        values=torch.cat([weighted[each][0, heads] for each in layers]),
        weighting=weighting,
        is_causal=config.is_causal,
    )


def _n_keys(pattern: Tensor, is_causal: bool) -> Float[Tensor, " q_pos"]:
    n_queries, n_keys = pattern.shape[-2:]
    seen = torch.arange(n_keys - n_queries, n_keys, device=pattern.device) + 1 if is_causal else torch.full((n_queries,), n_keys)
    return seen.to(pattern)


def _numbers(given: int | Sequence[int] | None, size: int, what: str) -> list[int]:
    """Return the layers or heads that are meant, counted from 0; raises ValueError for one that is not there."""
    numbers = list(range(size)) if given is None else [given] if isinstance(given, int) else list(given)
    if wrong := [number for number in numbers if not -size <= number < size]:
        raise ValueError(f"there is no {what} {wrong[0]}; this model has {size}, 0 to {size - 1}")
    if not numbers:
        raise ValueError(f"no {what} is given; name at least one, or leave it out for all")
    return [number % size for number in numbers]
