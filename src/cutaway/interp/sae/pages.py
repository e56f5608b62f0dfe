"""Pages of features: for each its strongest contexts, what it does to the logits, how often and how strongly it fires."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch
from jaxtyping import Float, Int
from rich.cells import cell_len
from torch import Tensor

from cutaway.interp.result import Result
from cutaway.interp.rows import token_texts
from cutaway.interp.sae.contexts import ContextOptions, FeatureContexts, find_contexts
from cutaway.interp.sae.dictionary import Dictionary
from cutaway.interp.sae.logit_effects import logit_effects, writes_to_stream
from cutaway.language_model import LanguageModel
from cutaway.report import Context, HtmlReport, context_list, link, links_line, ranked_tokens, table, token_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["FeaturePages", "FeatureSummary", "Ranked", "context_at", "describe_features", "page_name", "AGREES_FROM"]

Ranked = tuple[tuple[str, float], ...]
"""Tokens with what is added to their logits, the most first."""

AGREES_FROM = 0.8
"""From which share of a feature's contexts with one token at the peak they are said to agree on it."""

_WIDTH, _BEFORE = (
    200,
    130,
)  # characters of a context, less than two lines of a page, and those before its peak where there are enough
_N_TOKENS = 10  # raised and lowered
_N_SHOWN, _N_TOGETHER = 15, 25
_HONEST = (
    "What the feature's direction, added once, does to each logit on its direct way: through the last norm's gain and the unembedding, "
    "less the mean over the vocabulary. The norm's division is left out, as it depends on the whole stream and so on the token: the "
    "order is right for every token, the numbers are to be divided by the norm's scale there. What later layers make of the direction "
    "is not in it."
)


@dataclass(frozen=True)
class FeatureSummary:
    """A feature as its page has it."""

    feature: int
    density: float
    """In which share of the tokens it fires."""
    contexts: tuple[Context, ...]
    raised: Ranked
    """The tokens whose logits it raises most; none where its direction has no logits."""
    lowered: Ranked
    sampled: tuple[float, ...]
    """Activations above zero, drawn at random."""
    token: str
    """The commonest token at the peaks of its contexts, without outer spaces and in small letters."""
    agreement: float
    """Which share of the contexts have it."""

    @property
    def strongest(self) -> float:
        """Its greatest activation."""
        return max((max(context.values) for context in self.contexts), default=0.0)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FeaturePages(Result):
    """Features described, to be written as pages."""

    title: ClassVar[str] = "Features"
    source: ClassVar[str] = 'Bricken et al. 2023, "Towards Monosemanticity" (contexts, logit weights and densities of features)'

    said: str
    """The dictionary in words."""
    n_tokens: int
    """How many were looked at."""
    n_contexts: int
    """How many contexts a feature has at most."""
    features: tuple[FeatureSummary, ...]
    drawn: bool
    """Whether the features were drawn at random from those that fire."""
    has_logits: bool

    @property
    def agreeing(self) -> float | None:
        """The share of features with all their contexts, of which enough agree on a token; None where none has them all."""
        full = [each for each in self.features if len(each.contexts) == self.n_contexts]
        return sum(each.agreement >= AGREES_FROM for each in full) / len(full) if full else None

    def summary(self) -> str:
        """Return what was looked at, and how many features stand for a token."""
        how = "drawn at random from those that fire" if self.drawn else "as they were named"
        n_full = sum(len(each.contexts) == self.n_contexts for each in self.features)
        agreeing = (
            f" Of the {n_full:,} that fire in {self.n_contexts} windows or more, {100 * self.agreeing:.0f} % agree on a token: at "
            f"least {100 * AGREES_FROM:.0f} % of their strongest contexts have the same one at the peak, outer spaces and capitals "
            "aside."
            if self.agreeing is not None
            else ""
        )
        return (
            f"{len(self.features):,} features of {self.said}, {how}, in {self.n_tokens:,} tokens. Beside each are the commonest token "
            f"at the peaks of its {self.n_contexts} strongest contexts, the share of them that have it, and the tokens whose logits "
            f"it raises most.{agreeing}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return every feature with its contexts and logits."""
        return {
            "dictionary": self.said,
            "n_tokens": self.n_tokens,
            "n_contexts": self.n_contexts,
            "agreeing": self.agreeing,
            "agrees_from": AGREES_FROM,
            "features": [
                {name: value for name, value in asdict(each).items() if name != "sampled"} | {"strongest": each.strongest}
                for each in self.features
            ],
        }

    def figures(self) -> Sequence[Figure]:
        """Return how often the features fire: each of a few, the distribution of many."""
        from cutaway.plots import bars, histogram

        live, title = [each for each in self.features if each.density > 0], "How often features fire"
        if not live:
            return []
        if len(live) <= _N_TOGETHER:
            percent, names = [100 * each.density for each in live], [str(each.feature) for each in live]
            return [bars(percent, labels=names, title=title, label="% of the tokens", signed=False)]
        densities = torch.tensor([each.density for each in live])
        return [histogram(densities.log10().numpy(), title=title, x_label="log10 of density", y_label="features")]

    def views(self) -> Sequence[RenderableType]:
        """Return the features as a table."""
        headers, rows = self.table()
        shown = table(*headers, right=headers[:3])
        for row in rows[:_N_SHOWN]:
            shown.add_row(*row)
        return [shown]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return a line for each feature."""
        headers = ["feature", "density", "strongest", "at the peak", "raises"]
        return headers, [[str(each.feature), *_line(each)] for each in self.features]

    def add_to(self, page: HtmlReport, *, heading: str | None = None) -> None:
        """Add the features to a page, the first of them with their strongest contexts; `write` makes a page for each."""
        super().add_to(page, heading=heading)
        for each in self.features[:_N_SHOWN]:
            page.add(f"Feature {each.feature}", text=self._found(each), body=context_list(each.contexts))
        if (n_more := len(self.features) - _N_SHOWN) > 0:
            page.add("", text=f"Contexts of {n_more:,} more are in the folder that --out FOLDER, or `write`, makes.")

    def write(self, folder: Path | str, *, settings: Mapping[str, str] | None = None) -> Path:
        """Write `index.html` and a page for each feature into a folder and return the index; each page is whole or absent."""
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file: give a folder to write the pages into")
        names = [page_name(each.feature) for each in self.features]
        for place, each in enumerate(self.features):
            ways = {"all features": "index.html"}
            ways |= {"the one before": names[place - 1]} if place else {}
            ways |= {"the next": names[place + 1]} if place + 1 < len(names) else {}
            self._page(each, ways).write(folder / names[place])
        subtitle = " · ".join(f"{name} {value}" for name, value in (settings or {}).items())
        index = HtmlReport(f"Features of {self.said}", subtitle=subtitle)
        index.add("", text=f"{self.summary()}\n\nMethod: {self.source}.", figure=next(iter(self.figures()), None))
        headers, _ = self.table()
        rows = [[link(str(each.feature), name), *_line(each)] for each, name in zip(self.features, names, strict=True)]
        for start in range(0, len(rows), _N_TOGETHER):
            index.add("" if start else "All of them", table=(headers, rows[start : start + _N_TOGETHER]))
        return index.write(folder / "index.html")

    def _page(self, each: FeatureSummary, ways: dict[str, str]) -> HtmlReport:
        from cutaway.plots import histogram

        page = HtmlReport(f"Feature {each.feature}", subtitle=f"{self.said} · fires in {_percent(each.density)} of the tokens")
        page.add("", body=links_line(ways))
        page.add("Where it is strongest", text=self._found(each), body=context_list(each.contexts))
        if self.has_logits:
            page.add("Logits", text=_HONEST, body=ranked_tokens({"raised most": each.raised, "lowered most": each.lowered}))
        if each.sampled:
            drawn = f"{len(each.sampled):,} activations above zero, drawn at random where there are more."
            figure = histogram(each.sampled, title="Activations above zero", x_label="activation", y_label="tokens")
            page.add("How strongly it fires", text=drawn, figure=figure)
        return page

    def _found(self, each: FeatureSummary) -> str:
        """Return in words what the contexts of a feature are."""
        found = f"{len(each.contexts)} windows in which it is strongest, of {self.n_tokens:,} tokens; one context a window."
        return f"{found} {100 * each.agreement:.0f} % of them have {_shown(each.token)} at the peak." if each.contexts else found


def describe_features(
    lm: LanguageModel,
    dictionary: Dictionary,
    tokens: Int[Tensor, "window pos"],
    features: Sequence[int] | None = None,
    **options: Unpack[ContextOptions],
) -> FeaturePages:
    """Return what pages say of these features, or of as many that fire drawn at random by `seed`, in windows of tokens.

    Everything is as in `find_contexts`, which says what is raised.
    """
    found = find_contexts(lm, dictionary, tokens, features, **options)
    has_logits = writes_to_stream(dictionary)
    config = dictionary.config
    said = f"{config.d_sae:,} latents of {config.name}" + (f" to {config.target}" if config.is_transcoder else "")
    return FeaturePages(
        said=said,
        n_tokens=found.n_tokens,
        n_contexts=found.windows.shape[1],
        features=tuple(_summary(lm, dictionary, tokens, found, place, has_logits) for place in range(len(found.features))),
        drawn=features is None,
        has_logits=has_logits,
    )


def _summary(
    lm: LanguageModel,
    dictionary: Dictionary,
    tokens: Int[Tensor, "window pos"],
    found: FeatureContexts,
    place: int,
    has_logits: bool,
) -> FeatureSummary:
    contexts = [context_at(lm, tokens[window], found.values[place, i], pos) for i, (window, pos) in enumerate(found.peaks(place))]
    words = [context.tokens[context.peak].strip().lower() for context in contexts]
    commonest = max(sorted(set(words)), key=words.count, default="")
    raised, lowered = _ranked_logits(lm, dictionary, found.features[place]) if has_logits else ((), ())
    return FeatureSummary(
        feature=found.features[place],
        density=found.density[place].item(),
        contexts=tuple(contexts),
        raised=raised,
        lowered=lowered,
        sampled=tuple(found.sampled[place].tolist()),
        token=commonest,
        agreement=words.count(commonest) / len(words) if words else 0.0,
    )


def context_at(lm: LanguageModel, tokens: Int[Tensor, " pos"], values: Float[Tensor, " pos"], peak: int) -> Context:
    """Return the piece of a window around a feature's peak in it, with the feature's value at each token.

    It is as many whole tokens as two lines of a page take, more of them before the peak, where the feature looks.
    """
    texts = token_texts(lm, tokens)
    start, stop = _around([max(1, cell_len(text)) for text in texts], peak)  # a line break is shown as a sign
    is_cut = start > 0, stop < len(texts)
    return Context(texts[start:stop], values[start:stop].tolist(), peak - start, is_cut_before=is_cut[0], is_cut_after=is_cut[1])


def _around(widths: Sequence[int], peak: int) -> tuple[int, int]:
    """Return where the piece around a token begins and ends; what one side does not need the other may have."""
    before, after = widths[:peak][::-1], widths[peak + 1 :]
    beside = max(_WIDTH - widths[peak], 0)
    n_before = _n_within(before, max(_BEFORE, beside - sum(after)))
    n_after = _n_within(after, beside - sum(before[:n_before]))
    return peak - n_before, peak + 1 + n_after


def _n_within(widths: Sequence[int], most: int) -> int:
    """Return how many of these, from the first on, fit."""
    return sum(total <= most for total in accumulate(widths))


def _ranked_logits(lm: LanguageModel, dictionary: Dictionary, feature: int) -> tuple[Ranked, Ranked]:
    """Return the tokens whose logits a feature raises and lowers most, with how much; ids that are no token are passed over."""
    logits = logit_effects(lm.model, dictionary, [feature])[0].float()
    unused = [each for each in lm.tokenizer.unused_ids if each < len(logits)]
    is_token = torch.arange(len(logits), device=logits.device) < lm.tokenizer.d_vocab
    is_token[unused] = False
    ids = is_token.nonzero()[:, 0]
    order = ids[logits[ids].argsort(descending=True, stable=True)]

    def ranked(chosen: Int[Tensor, " token"]) -> Ranked:
        return tuple(zip(token_texts(lm, chosen), logits[chosen].tolist(), strict=True))

    return ranked(order[:_N_TOKENS]), ranked(order.flip(0)[:_N_TOKENS])


def _line(each: FeatureSummary) -> list[str]:
    on = f"{_shown(each.token)} {100 * each.agreement:.0f} %" if each.contexts else ""
    raised = " ".join(token_label(text) for text, _ in each.raised[:4])
    return [_percent(each.density), f"{each.strongest:.2f}", on, raised]


def _shown(token: str) -> str:
    """Return the token at the peaks, which lacks its outer spaces, as it is shown."""
    return token_label(token) if token else "white space"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def page_name(feature: int) -> str:
    """Return what the file of a feature's page is called."""
    return f"feature-{feature:06d}.html"
