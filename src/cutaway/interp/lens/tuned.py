"""The tuned lens: each layer read through an affine map that was trained for it (Belrose et al. 2023)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from cutaway import runtime
from cutaway.data import Loader, TokenArray, split_tokens
from cutaway.interp.lens.reading import LensReading, read_text
from cutaway.interp.lens.states import mean_kl, state_names
from cutaway.interp.lens.training import LensProgress, LensRecipe, LensTraining, train_translators
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.runtime import atomic_path, atomic_write
from cutaway.weights import model_sha256, save_tensors, stream_tensors

__all__ = ["DESCRIPTION", "TunedLens", "TunedLensReading", "tuned_lens", "check_folder"]

_FORMAT = "cutaway tuned lens 1"
_TENSORS = "lens.safetensors"
DESCRIPTION = "lens.json"
"""The file that says what a folder's lens is."""
_MAX_HELD_OUT = 256  # tokens


@dataclass(frozen=True, eq=False)
class TunedLens:
    """A translator `x + A x + b` for every state of the residual stream before the last; the last is read as it is.

    Belrose et al. 2023, with their matrix less the identity as `A`. `model_sha256` is that of the model it was made for.

    >>> import cutaway
    >>> text = "def __init__(self, name):\\n    self.name = name\\n" * 40
    >>> lens = cutaway.lens.TunedLens.train(cutaway.load("stdlib-1l"), text, n_steps=20)
    >>> lens.A.shape, lens.b.shape
    (torch.Size([1, 64, 64]), torch.Size([1, 64]))
    """

    A: Float[Tensor, "layer d_model d_model"] = field(repr=False)
    b: Float[Tensor, "layer d_model"] = field(repr=False)
    model_sha256: str
    training: LensTraining | None = None
    model: str = ""
    """What that model is called, where it is known."""

    @classmethod
    def untrained(cls, model: Transformer) -> Self:
        """Return the lens that training begins with: every translator the identity, so that it reads what the logit lens does."""
        state_names(model.config)  # refuses a model without layers
        n_layers, d_model, W_E = model.config.n_layers, model.config.d_model, model.embed.W_E
        dtype = torch.promote_types(W_E.dtype, torch.float32)
        A = torch.zeros(n_layers, d_model, d_model, device=W_E.device, dtype=dtype)
        return cls(A, A.new_zeros(n_layers, d_model), model_sha256(model))

    @classmethod
    def train(
        cls,
        lm: LanguageModel,
        text: str | Int[Tensor, " pos"] | TokenArray | Sequence[int],
        *,
        n_steps: int = 250,
        batch_size: int = 8,
        n_pos: int = 64,
        learning_rate: float = 1.0,
        momentum: float = 0.9,
        max_grad_norm: float = 1.0,
        seed: int = 0,
        corpus: str = "",
        progress: LensProgress | None = None,
    ) -> Self:
        """Return a lens that minimises KL(final || lens) on windows of a text, or of its ids, drawn by `seed`.

        SGD with Nesterov's momentum; `learning_rate` falls linearly to 0 and each layer's gradient is cut off at `max_grad_norm`. The
        last tenth of the text is kept: there the lens is compared with the logit lens (`lens.training`). `corpus` is what the text is
        called. Time grows with layers, tokens of a step and `d_vocab`. Raises ValueError for a text of fewer than 20 windows.
        """
        names = state_names(lm.config)
        recipe = LensRecipe(
            n_steps=n_steps,
            batch_size=batch_size,
            n_pos=min(n_pos, lm.config.n_ctx),
            learning_rate=learning_rate,
            momentum=momentum,
            max_grad_norm=max_grad_norm,
            seed=seed,
        )
        learned, held_out = _split(lm, text, recipe.n_pos)
        loader = Loader(learned, batch_size=batch_size, n_ctx=recipe.n_pos, seed=seed)
        A, b = train_translators(lm.model, loader, names[:-1], recipe, progress=progress)
        lens = cls(A, b, model_sha256(lm.model))
        training = LensTraining(
            recipe=recipe,
            names=tuple(names),
            kl_logit_lens=tuple(mean_kl(lm.model, held_out, names).tolist()),
            kl_tuned_lens=tuple(mean_kl(lm.model, held_out, names, translate=lens.translate).tolist()),
            n_tokens=len(learned),
            n_held_out=held_out.numel(),
            corpus=corpus,
        )
        return cls(A, b, lens.model_sha256, training)

    def translate(self, resid: Float[Tensor, "... d_model"], layer: int) -> Float[Tensor, "... d_model"]:
        """Return what the final norm reads of a state; 0 is the embedding, and `n_layers` the end, which is left alone."""
        if layer == len(self.A):
            return resid
        x = resid.to(self.A.dtype)
        return (x + torch.nn.functional.linear(x, self.A[layer], self.b[layer])).to(resid.dtype)

    def save(self, folder: Path | str) -> Path:
        """Write `lens.safetensors` and `lens.json` into a folder and return it; one that holds anything else raises ValueError."""
        folder = Path(folder)
        check_folder(folder)
        training = None if self.training is None else asdict(self.training)
        about = {
            "format": _FORMAT,
            "model_sha256": self.model_sha256,
            "n_layers": self.A.shape[0],
            "d_model": self.A.shape[1],
            "training": training,
        }
        about |= {"model": self.model} if self.model else {}
        with atomic_path(folder / _TENSORS) as temporary:
            save_tensors({"A": self.A.contiguous(), "b": self.b.contiguous()}, temporary)
        atomic_write(folder / DESCRIPTION, json.dumps(about, indent=2))
        return folder

    @classmethod
    def load(cls, folder: Path | str, model: Transformer) -> Self:
        """Read a lens that was saved; raises ValueError for what is none, is damaged, or was made for another model."""
        folder = Path(folder)
        about = _read_description(folder / DESCRIPTION)
        tensors = dict(stream_tensors(folder / _TENSORS))
        n_layers, d_model = model.config.n_layers, model.config.d_model
        named = about.get("model") or "its name is not known"
        made_for = f"{named}, {about['n_layers']} layers, d_model {about['d_model']}, sha256 {about['model_sha256'][:12]}"
        if (found := model_sha256(model)) != about["model_sha256"]:
            raise ValueError(
                f"the lens in {folder} was made for another model ({made_for}) than this ({n_layers} layers, d_model {d_model}, "
                f"sha256 {found[:12]}): take that model, or train a lens for this one"
            )
        shapes = {"A": (n_layers, d_model, d_model), "b": (n_layers, d_model)}
        if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != shapes:
            raise ValueError(f"{folder / _TENSORS} is damaged: expected A and b for {n_layers} layers of d_model {d_model}")
        device = model.embed.W_E.device
        return cls(
            tensors["A"].to(device),
            tensors["b"].to(device),
            about["model_sha256"],
            _training(about["training"]),
            about.get("model", ""),
        )


@dataclass(frozen=True, repr=False)
class TunedLensReading(LensReading):
    """What a tuned lens reads in one text, at every layer and position."""

    title: ClassVar[str] = "Tuned lens"
    source: ClassVar[str] = LensTraining.source


def tuned_lens(
    lm: LanguageModel,
    text: str | Int[Tensor, "..."] | Sequence[int],
    lens: TunedLens,
    *,
    target: str | int | None = None,
    top_k: int = 5,
    bos: bool | None = None,
) -> TunedLensReading:
    """Return what each layer of a text, or of one row of ids, says through its translator (Belrose et al. 2023).

    Everything else is as in `logit_lens`. Raises ValueError as that does, and for a lens of another shape than the model's.
    """
    n_layers, d_model = lens.b.shape
    if (n_layers, d_model) != (lm.config.n_layers, lm.config.d_model):
        raise ValueError(
            f"the lens is for {n_layers} layers of d_model {d_model} and the model has {lm.config.n_layers} of {lm.config.d_model}: "
            "take the lens that was trained for it"
        )
    names = state_names(lm.config)
    reading = read_text(lm, text, names, kind=TunedLensReading, translate=lens.translate, target=target, top_k=top_k, bos=bos)
    assert isinstance(reading, TunedLensReading)
    return reading


def check_folder(folder: Path) -> None:
    """Raise ValueError for a folder that a lens is not to be written into: a file, or one that holds other things."""
    runtime.check_folder(folder, "the lens", {_TENSORS, DESCRIPTION})


def _split(
    lm: LanguageModel, text: str | Tensor | TokenArray | Sequence[int], n_pos: int
) -> tuple[np.ndarray, Int[Tensor, "batch pos"]]:
    """Return the ids to learn from, and windows of the last tenth, spread over it."""
    ids = np.asarray(lm.tokenizer.encode(text) if isinstance(text, str) else text)
    ids = ids if ids.dtype.kind == "u" else ids.astype(np.uint32)
    if len(ids) < 20 * n_pos:
        raise ValueError(f"the text has {len(ids)} tokens: expected at least {20 * n_pos}, 20 windows of {n_pos}")
    learned, kept = split_tokens(ids)
    windows = rearrange(torch.tensor(kept[: len(kept) // n_pos * n_pos].astype(np.int64)), "(batch pos) -> batch pos", pos=n_pos)
    chosen = torch.linspace(0, len(windows) - 1, min(len(windows), max(1, _MAX_HELD_OUT // n_pos))).long()
    return learned, windows[chosen].to(lm.model.embed.W_E.device)


def _read_description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path.parent} holds no {path.name}, so it is no saved lens")
    try:
        about: dict[str, Any] = {**json.loads(path.read_text(encoding="utf-8"))}
        if about["format"] != _FORMAT:
            raise ValueError(f"its format is {about['format']!r}, expected {_FORMAT!r}")  # noqa: TRY301
        str(about["model_sha256"]), int(about["n_layers"]), int(about["d_model"]), _training(about["training"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} describes no lens: {error}") from None
    return about


def _training(values: dict[str, Any] | None) -> LensTraining | None:
    if values is None:
        return None
    read = {each.name: values[each.name] for each in fields(LensTraining)}
    read = {name: tuple(value) if isinstance(value, list) else value for name, value in read.items()}
    return LensTraining(**{**read, "recipe": LensRecipe(**read["recipe"])})
