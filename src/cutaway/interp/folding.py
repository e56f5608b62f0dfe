"""A model rewritten without changing what it computes, saved, and held against the old one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.refactoring import centre_unembed, centre_writing_weights, fold_norm
from cutaway.interp.result import Result
from cutaway.interp.rows import token_texts
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.report import fields_table, token_label
from cutaway.runtime import atomic_path, seeded_generator
from cutaway.tokenizers import NoTokenizer
from cutaway.views import without_dropout
from cutaway.weights import save_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["Folding", "fold"]

_N_RANDOM = 64


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Folding(Result):
    """A model that was rewritten, and how far its logits are from those of the old one."""

    title: ClassVar[str] = "Folded model"
    source: ClassVar[str] = "TransformerLens, the documentation of fold_ln, center_writing_weights and center_unembed"

    folder: Path | None
    """Where the new model was written."""
    steps: tuple[str, ...]
    """What was done, in order."""
    tokens: tuple[str, ...]
    """What both models read."""
    differences: Float[Tensor, " pos"]
    """The largest difference of a logit at each position; with the unembedding centred, of a log-probability."""
    scale: float
    """The largest logit, in size."""
    compared: str
    """What was compared: logits or log-probabilities."""
    dtype: str
    n_parameters: tuple[int, int]
    """Of the old model and of the new."""

    @property
    def largest(self) -> float:
        """The largest difference anywhere."""
        return self.differences.max().item()

    def summary(self) -> str:
        """Return what was done, where the model is, and by how much it differs."""
        return (
            f"{', '.join(self.steps).capitalize()}. Over {len(self.tokens)} tokens the new model's {self.compared} differ from the old "
            f"one's by {self.largest:.2g} at most, where the largest logit is {self.scale:.3g} and numbers are {self.dtype}. "
            + ("It was not written anywhere." if self.folder is None else f"It is in {self.folder}.")
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what was done, where, and the differences."""
        return {
            "folder": None if self.folder is None else str(self.folder),
            "steps": list(self.steps),
            "tokens": list(self.tokens),
            "compared": self.compared,
            "largest_difference": self.largest,
            "differences": self.differences.tolist(),
            "largest_logit": self.scale,
            "dtype": self.dtype,
            "n_parameters": {"before": self.n_parameters[0], "after": self.n_parameters[1]},
        }

    def figures(self) -> list[Figure]:
        """Return the largest difference at every position."""
        from cutaway.plots import lines

        series = {"largest difference": (list(range(len(self.differences))), self.differences.tolist())}
        return [
            lines(series, title=f"Difference of {self.compared} from the old model's", x_label="position", y_label="difference")
        ]

    def views(self) -> list[RenderableType]:
        """Return the numbers."""
        worst = int(self.differences.argmax())
        return [
            fields_table(
                {
                    "largest difference": f"{self.largest:.3g}, of {self.compared}",
                    "at position": f"{worst} {token_label(self.tokens[worst])}",
                    "largest logit": f"{self.scale:.4g}",
                    "parameters": f"{self.n_parameters[0]:,} before, {self.n_parameters[1]:,} after",
                }
            )
        ]


def fold(
    lm: LanguageModel,
    folder: str | Path | None = None,
    *,
    centre: bool = False,
    centre_vocabulary: bool = False,
    text: str | None = None,
    seed: int = 0,
) -> Folding:
    """Fold the norms into the matrices that read them, compare the two models, and write the new one to a folder for `cutaway.load`.

    `centre` also takes from the writing weights the mean that LayerNorm takes away anyway, and `centre_vocabulary` from the unembedding
    its mean over tokens, which moves all logits of a position alike: then log-probabilities are compared. Both read `text`, or tokens
    drawn with `seed`. Raises ValueError for a model that cannot be rewritten so, and for a folder that is there already.
    Source: the documentation of TransformerLens; see `cutaway.refactoring`.
    """
    folder, model = None if folder is None else Path(folder), lm.model
    if folder is not None and folder.exists():
        raise ValueError(f"{folder} is there already; give the name of a folder that is new")
    ways: list[tuple[bool, str, Callable[[Transformer], Transformer]]] = [
        (True, "norms folded into what reads them", fold_norm),
        (centre, "writing weights centred", centre_writing_weights),
        (centre_vocabulary, "the unembedding centred", centre_unembed),
    ]
    chosen = [(said, change) for is_wanted, said, change in ways if is_wanted]
    new = model
    for _, change in chosen:
        new = change(new)
    tokens = _tokens(lm, text, seed)
    with torch.no_grad():
        logits, others = (without_dropout(each)(tokens)[0] for each in (model, new))
    if centre_vocabulary:
        logits, others = logits.log_softmax(-1), others.log_softmax(-1)
    if folder is not None:
        _write(new, lm, folder)
    return Folding(
        folder=folder,
        steps=tuple(said for said, _ in chosen),
        tokens=tuple(token_texts(lm, tokens[0])),
        differences=(others - logits).abs().amax(-1),
        scale=logits.abs().max().item(),
        compared="log-probabilities" if centre_vocabulary else "logits",
        dtype=str(logits.dtype).removeprefix("torch."),
        n_parameters=(_n_parameters(model), _n_parameters(new)),
    )


def _tokens(lm: LanguageModel, text: str | None, seed: int) -> Tensor:
    if text is not None:
        return lm.tokens(text)
    n_pos = min(_N_RANDOM, lm.config.n_ctx)
    return torch.randint(lm.config.d_vocab, (1, n_pos), generator=seeded_generator(seed)).to(lm.model.embed.W_E.device)


def _write(model: Transformer, lm: LanguageModel, folder: Path) -> None:
    """Write the model with its tokenizer and chat template, whole or not at all."""
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        save_model(model, temporary)
        if not isinstance(lm.tokenizer, NoTokenizer):
            lm.tokenizer.save(temporary / "tokenizer.json")
        if lm.chat_template is not None:
            (temporary / "chat_template.jinja").write_text(lm.chat_template, encoding="utf-8")


def _n_parameters(model: Transformer) -> int:
    return sum(weight.numel() for weight in model.parameters())
