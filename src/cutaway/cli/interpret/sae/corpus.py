"""Training that is seen on a terminal, and the dictionary that a verb was given, or a sketch where it was given none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.report import stderr_console
from cutaway.report.counting import count_progress, step_progress

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from cutaway.interp.sae import ActivationSource, Dictionary, LearningCurve, Point, SAEConfig
    from cutaway.interp.training_data import TrainingData
    from cutaway.language_model import LanguageModel

__all__ = ["train_on", "train_from", "given_or_sketch", "stored_windows"]

_SKETCH: dict[str, Any] = {"n_steps": 100, "batch_size": 256, "dead_after": 5000, "log_every": 10}
_N_BUFFERED = 2**15  # rows that are mixed where memory allows
_SKETCH_TOKENS, _SKETCH_WIDTH = 2048, 2


def train_on(
    lm: LanguageModel,
    configs: Sequence[SAEConfig],
    tokens: Int[Tensor, "window pos"],
    *,
    first: int,
    memory_gib: float,
    checkpoints: Path | None,
) -> list[tuple[Dictionary, LearningCurve]]:
    """Train on the windows' activations, held in memory where they fit, computed anew each epoch where they do not.

    One run of the model gives what all dictionaries learn from.
    """
    from cutaway.interp import sae

    shapes = [config.dictionary for config in configs]
    names = [name for shape in shapes for name in shape.row_names]
    memory, d_row = memory_gib * 2**30, sum(shape.d_row for shape in shapes)
    n_buffered = min(_N_BUFFERED, int(memory / (4 * d_row)))
    running = sae.ModelActivations(lm.model, tokens, names, first=first, n_buffered=n_buffered)
    source: sae.ActivationSource = running
    if tokens.numel() * d_row * 4 <= memory:
        with count_progress("windows") as counted:
            source = sae.TensorActivations.of(running, progress=counted)
    return train_from(lm, configs, source, checkpoints=checkpoints)


def train_from(
    lm: LanguageModel, configs: Sequence[SAEConfig], source: ActivationSource, *, checkpoints: Path | None
) -> list[tuple[Dictionary, LearningCurve]]:
    """Train on the rows of a source, and show on a terminal how far it is."""
    from cutaway.interp import sae

    with step_progress() as progress:

        def show(n_done: int, n_total: int, points: Sequence[Point]) -> None:
            fvu, l0 = (sum(getattr(point, name) for point in points) / len(points) for name in ("fvu", "l0"))
            progress(n_done, n_total, f"{100 * fvu:.1f} % unexplained, {l0:.0f} latents")

        return sae.train_together(configs, source, device=lm.model.embed.W_E.device, checkpoints=checkpoints, progress=show)


def given_or_sketch(lm: LanguageModel, folder: Path | None, corpus: str, *, n_pos: int, seed: int) -> Dictionary:
    """Return the dictionary of a folder, which analyses hold against the model; without one a sketch, which is said."""
    from cutaway.interp import sae

    if folder is not None:
        return sae.load_dictionary(folder, device=lm.model.embed.W_E.device)
    name, d = f"blocks.{lm.config.n_layers // 3}.resid_post", lm.config.d_model
    shape = sae.DictionaryConfig(kind="topk", d_in=d, d_sae=_SKETCH_WIDTH * d, k=min(16, d), name=name)
    tokens = sae.read_windows(lm, corpus, n_pos=n_pos, n_tokens=_SKETCH_TOKENS, held_out=False)
    sentence = f"No dictionary was given (--sae): a sketch of {name} is trained on {tokens.numel():,} tokens.\n"
    stderr_console().print(sentence, style="dim", markup=False, soft_wrap=True)
    config = sae.SAEConfig(dictionary=replace(shape, trained_on=sae.corpus_data(lm, corpus)), seed=seed, **_SKETCH)
    ((dictionary, _),) = train_on(lm, [config], tokens, first=min(1, tokens.shape[1] - 1), memory_gib=1.0, checkpoints=None)
    return dictionary


def stored_windows(lm: LanguageModel, folder: Path, *, n_tokens: int) -> tuple[Int[Tensor, "window pos"], TrainingData]:
    """Return windows spread over the part of a store that is held out from training, and what that part is of."""
    import torch

    from cutaway.interp.store import open_store

    store = open_store(folder)
    store.check_model(lm)
    windows = store.tokens.of_windows(store.held_out_windows)
    if not len(windows):
        raise ValueError(f"the store in {folder} has too few windows to hold some out: collect more tokens, or give --corpus")
    chosen = torch.linspace(0, len(windows) - 1, min(len(windows), max(1, n_tokens // windows.shape[1]))).long()
    return windows[chosen].to(lm.model.embed.W_E.device), store.training_data
