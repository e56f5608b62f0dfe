"""What a lens reads in one text: the likeliest tokens at every layer and position, and how far each is from the model's answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.interp.lens.states import Distributions, LensNorm, Translate, distributions, kl_nats, state_label, state_place
from cutaway.interp.result import Result
from cutaway.interp.rows import one_row, token_texts
from cutaway.interp.targets import single_token
from cutaway.language_model import LanguageModel
from cutaway.report.numbers import format_fixed
from cutaway.report.tokens import token_label
from cutaway.views import without_dropout

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["LensScores", "LensReading", "lens_scores", "read_text"]

_SHOWN, _DRAWN = 12, 32  # positions that a terminal and a figure have room for


@dataclass(frozen=True)
class LensScores:
    """What a lens reads at every state and position: KL in nats, ranks from 1, the likeliest."""

    top_tokens: Int[Tensor, "layer batch pos k"]
    top_probs: Float[Tensor, "layer batch pos k"]
    followed: Int[Tensor, "batch pos"]
    """The token that probabilities and ranks are of: the target, else the next one, or where there is none the model's own answer."""
    probs: Float[Tensor, "layer batch pos"]
    log_probs: Float[Tensor, "layer batch pos"]
    ranks: Int[Tensor, "layer batch pos"]
    kl: Float[Tensor, "layer batch pos"]
    """KL(final || lens)."""


def lens_scores(
    lm: LanguageModel,
    tokens: Int[Tensor, "batch pos"],
    names: Sequence[str],
    *,
    norm: LensNorm = "own",
    translate: Translate | None = None,
    target: int | None = None,
    top_k: int = 5,
) -> LensScores:
    """Return what a lens reads at these states of a run, on the CPU; the logits of one state are held at a time."""
    top_k = min(top_k, lm.config.d_vocab_out)
    parts: list[dict[str, Tensor]] = []
    with torch.inference_mode():
        for part in distributions(without_dropout(lm.model), tokens, names, norm=norm, translate=translate):
            followed = _followed(lm, tokens, part, target)
            of_states = [_scores(log_probs, part.final, followed, top_k) for log_probs in part.by_state]
            stacked = {name: torch.stack([each[name] for each in of_states]).cpu() for name in of_states[0]}
            parts.append(stacked | {"followed": followed.cpu()})
    pos_axis = {name: 1 if name == "followed" else 2 for name in parts[0]}
    return LensScores(**{name: torch.cat([part[name] for part in parts], axis) for name, axis in pos_axis.items()})


def _followed(lm: LanguageModel, tokens: Tensor, part: Distributions, target: int | None) -> Tensor:
    followed = part.final.argmax(-1)
    if target is not None:
        return torch.full_like(followed, target)
    if _predicts_next(lm):
        following = tokens[:, part.positions.start + 1 : part.positions.stop + 1]
        followed[:, : following.shape[1]] = following
    return followed


def _predicts_next(lm: LanguageModel) -> bool:
    return lm.config.is_causal and lm.config.d_vocab_out >= lm.config.d_vocab


def _scores(log_probs: Tensor, final: Tensor, followed: Tensor, top_k: int) -> dict[str, Tensor]:
    top = log_probs.topk(top_k)
    of_followed = log_probs.gather(-1, followed[..., None])
    return {
        "top_tokens": top.indices,
        "top_probs": top.values.exp(),
        "log_probs": of_followed[..., 0],
        "probs": of_followed[..., 0].exp(),
        "ranks": (log_probs > of_followed).sum(-1) + 1,
        "kl": kl_nats(final, log_probs),
    }


@dataclass(frozen=True, repr=False)
class LensReading(Result):
    """What a lens reads in one text, at every layer and position."""

    title: ClassVar[str] = "Logit lens"
    source: ClassVar[str] = "nostalgebraist 2020, interpreting GPT: the logit lens"

    tokens: tuple[str, ...]
    names: tuple[str, ...]
    """The states that were read, by their activations' names."""
    norm: LensNorm
    words: tuple[tuple[tuple[str, ...], ...], ...]
    """The likeliest tokens as text, layer by layer, position by position, likeliest first."""
    top_probs: Float[Tensor, "layer pos k"]
    followed: tuple[str, ...]
    """The token that is followed at each position: the target, else the next one, at the end the model's own answer."""
    probs: Float[Tensor, "layer pos"]
    """Of the token followed."""
    log_probs: Float[Tensor, "layer pos"]
    ranks: Int[Tensor, "layer pos"]
    """Of the token followed; 1 is the likeliest."""
    kl: Float[Tensor, "layer pos"]
    """KL(final || lens) in nats."""
    n_next: int
    """At how many positions, from the first, the token followed is the text's next."""
    note: str = ""

    @property
    def labels(self) -> list[str]:
        """What the states are called: `embed`, `0`, or with mid-layers `0 mid`, `0`."""
        return [state_label(name) for name in self.names]

    @property
    def loss(self) -> Float[Tensor, " layer"]:
        """The mean loss in nats on the text's next tokens, of what each state says; NaN where there are none."""
        return -self.log_probs[:, : self.n_next].mean(-1)

    def summary(self) -> str:
        """Return where the last answer comes up, and how far the readings are from what the model ends with."""
        kl, labels = self.kl.mean(-1).tolist(), self.labels
        places = sorted({0, len(kl) // 2, len(kl) - 2})
        path = ", ".join(f"{kl[place]:.2f} {_at(labels[place])}" for place in places)
        norm = {"own": "", "frozen": " Every state is divided by the run's final scale.", "none": " No norm is applied."}[self.norm]
        note = f" ({self.note}.)" if self.note else ""
        return f"{self._path_of_the_answer()} Mean KL of the model's answer from the reading, in nats: {path}.{norm}{note}"

    def _path_of_the_answer(self) -> str:
        ranks, labels = self.ranks[:, -1].tolist(), self.labels
        what = f"{token_label(self.followed[-1])} after {token_label(self.tokens[-1])}"
        ends = f"probability {self.probs[-1, -1]:.2f} at the end"
        if ranks[-1] > 1:
            best = min(range(len(ranks)), key=ranks.__getitem__)
            return (
                f"{what} is never settled on: rank {ranks[-1]:,} and {ends}; its best rank is {ranks[best]:,}, {_at(labels[best])}."
            )
        first = max((number + 1 for number, rank in enumerate(ranks) if rank > 1), default=0)
        before = f", from rank {ranks[0]:,} {_at(labels[0])}" if first else ""
        where = "at the last layer alone" if first == len(ranks) - 1 else f"from {_at(labels[first])[3:]} on"
        return f"{what} is the likeliest {where}{before}; {ends}."

    def to_dict(self) -> dict[str, Any]:
        """Return every number, layer by layer and position by position."""
        top = [
            [[{"token": word, "prob": prob} for word, prob in zip(*each, strict=True)] for each in zip(words, probs, strict=True)]
            for words, probs in zip(self.words, self.top_probs.tolist(), strict=True)
        ]
        return {
            "analysis": self.title,
            "norm": self.norm,
            "tokens": list(self.tokens),
            "names": list(self.names),
            "layers": self.labels,
            "followed": list(self.followed),
            "top": top,
            **{name: getattr(self, name).tolist() for name in ("probs", "log_probs", "ranks", "kl")},
            "note": self.note,
        }

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return for each state its mean KL, its loss on the next tokens, and what it says of the token followed last."""
        answer = token_label(self.followed[-1])
        columns = [
            self.labels,
            [format_fixed(value, 3) for value in self.kl.mean(-1).tolist()],
            [format_fixed(value, 3) for value in self.loss.tolist()],
            [format_fixed(value, 3) for value in self.probs[:, -1].tolist()],
            [f"{rank:,}" for rank in self.ranks[:, -1].tolist()],
        ]
        headers = ["layer", "KL, nats", "loss, nats", f"p({answer})", "rank"]
        if not self.n_next:
            del columns[2], headers[2]
        return headers, [list(row) for row in zip(*columns, strict=True)]

    def views(self) -> Sequence[RenderableType]:
        """Return the likeliest tokens as a coloured grid, the last positions of a long text, and a table of the layers."""
        from rich.console import Group
        from rich.text import Text

        from cutaway.report import table
        from cutaway.report.grid import grid

        here = self._last(_SHOWN)
        cells = grid(
            self.top_probs[:, here, 0].numpy(),
            rows=self.labels,
            columns=self.tokens[here],
            texts=[[each[0] for each in row[here]] for row in self.words],
            corner="layer",
            limit=1.0,
        )
        headers, rows = self.table()
        numbers = table(*headers, right=headers[1:])
        for row in rows:
            numbers.add_row(*row)
        captions = [
            self._caption("The likeliest next token and its probability", _SHOWN),
            f"Means over positions, and {token_label(self.followed[-1])} after the last",
        ]
        return [Group(Text(caption, style="bold"), view) for caption, view in zip(captions, [cells, numbers], strict=True)]

    def figures(self) -> Sequence[Figure]:
        """Return the grid of likeliest tokens, the last positions of a long text, and the KL by layer."""
        from cutaway.plots import lines, token_grid

        here = self._last(_DRAWN)
        cells = token_grid(
            [[each[0] for each in row[here]] for row in self.words],
            self.top_probs[:, here, 0].numpy(),
            rows=self.labels,
            columns=self.tokens[here],
            title=self._caption(f"{self.title}: the likeliest next token", _DRAWN),
            label="its probability",
            row_title="layer",
        )
        places = [state_place(name) for name in self.names]
        series = {"mean over positions": (places, self.kl.mean(-1).tolist())}
        if len(self.tokens) > 1:
            series["last position"] = (places, self.kl[:, -1].tolist())
        title = f"{self.title}: how far from the model's answer"
        return [cells, lines(series, title=title, x_label="layer (the embedding is at -1)", y_label="KL(final || lens), nats")]

    def _last(self, n_shown: int) -> slice:
        return slice(max(len(self.tokens) - n_shown, 0), None)

    def _caption(self, what: str, n_shown: int) -> str:
        n_pos = len(self.tokens)
        return what if n_pos <= n_shown else f"{what}, at the last {n_shown} of {n_pos} positions"


def read_text(
    lm: LanguageModel,
    text: str | Int[Tensor, "..."] | Sequence[int],
    names: Sequence[str],
    *,
    kind: type[LensReading] = LensReading,
    norm: LensNorm = "own",
    translate: Translate | None = None,
    target: str | int | None = None,
    top_k: int = 5,
    bos: bool | None = None,
) -> LensReading:
    """Return the reading of one text, or of one row of ids; raises ValueError as `logit_lens` does."""
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}; expected at least 1")
    tokens, given = _row(lm, text, bos)
    token, note = _target(lm, target, given)
    scores = lens_scores(lm, tokens, names, norm=norm, translate=translate, target=token, top_k=top_k)
    row = {name: getattr(scores, name)[:, 0] for name in ("top_probs", "probs", "log_probs", "ranks", "kl")}
    return kind(
        tokens=tuple(token_texts(lm, tokens[0])),
        names=tuple(names),
        norm=norm,
        words=tuple(tuple(tuple(_word(lm, each) for each in k) for k in layer) for layer in scores.top_tokens[:, 0].tolist()),
        followed=tuple(_word(lm, each) for each in scores.followed[0].tolist()),
        n_next=tokens.shape[1] - 1 if token is None and _predicts_next(lm) else 0,
        note=note,
        **row,
    )


def _row(lm: LanguageModel, text: str | Tensor | Sequence[int], bos: bool | None) -> tuple[Int[Tensor, "1 pos"], str]:
    """Return the ids as one row, and the text that they are."""
    tokens = one_row(lm, text, bos=bos)
    return tokens, text if isinstance(text, str) else "".join(token_texts(lm, tokens[0]))


def _target(lm: LanguageModel, target: str | int | None, given: str) -> tuple[int | None, str]:
    if isinstance(target, str):
        return single_token(lm, target, after=given)
    if target is not None and not 0 <= target < lm.config.d_vocab_out:
        raise ValueError(f"the target is token {target}; expected 0 to {lm.config.d_vocab_out - 1}")
    return target, ""


def _input_word(lm: LanguageModel, token: int) -> str:
    tokenizer = lm.tokenizer
    return tokenizer.decode([token]) if token < tokenizer.d_vocab and token not in tokenizer.unused_ids else str(token)


def _word(lm: LanguageModel, token: int) -> str:
    """Return an answer as text; by its number where the model's answers are not its tokens."""
    return _input_word(lm, token) if lm.config.d_vocab_out >= lm.config.d_vocab else str(token)


def _at(label: str) -> str:
    if label == "embed":
        return "at the embedding"
    layer, _, is_mid = label.partition(" ")
    return f"at {'the middle of ' if is_mid else ''}layer {layer}"
