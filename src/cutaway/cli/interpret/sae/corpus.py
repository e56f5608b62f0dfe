"""What dictionaries are trained on and how, training that is seen, and the dictionary that a verb was given, or a sketch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.cli.errors import UsageError
from cutaway.report import stderr_console
from cutaway.report.counting import count_progress, step_progress

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from cutaway.interp.sae import ActivationSource, Dictionary, DictionaryConfig, Kind, LearningCurve, Point, SAEConfig
    from cutaway.interp.store import ActivationStore
    from cutaway.interp.training_data import TrainingData
    from cutaway.language_model import LanguageModel
    from cutaway.model import Transformer

__all__ = [
    "SAID_OF_MODEL",
    "Recipe",
    "train_on",
    "train_from",
    "open_checked",
    "layer_of",
    "given_or_sketch",
    "readable_text",
    "model_of_dictionary",
    "say_what_shows",
    "unseen_windows",
]

SAID_OF_MODEL = "a saved dictionary's own, else the latest run"
"""What `model_of_dictionary` gives, in the words of the help."""
_SKETCH: dict[str, Any] = {"n_steps": 100, "batch_size": 256, "dead_after": 5000, "log_every": 10}
_N_BUFFERED = 2**15  # rows that are mixed where memory allows
_SPARSITY = {"relu": 0.1, "jumprelu": 0.005}
_SKETCH_TOKENS, _SKETCH_WIDTH = 2048, 2


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a dictionary is trained on and how.

    Args:
        corpus TEXT: a file, a folder, a glob, or stdlib, shakespeare, tinyshakespeare
        tokens: how many of the corpus, spread over it
        n_pos: tokens of a window; the model's context where that is shorter
        first: so many first positions of a window are left out, as they are often many times longer
        width: so many times as many latents as coordinates
        k: latents a row, of topk and batchtopk
        sparsity: what the penalty of relu and jumprelu is multiplied with; 0.1 and 0.005 unless given
        steps: so many steps of training
        batch_size: rows a step
        learning_rate: that of Adam, after the warm-up and before the decay
        memory: GiB that activations may take; computed anew each epoch where they need more
        seed: of weights and order
    """

    corpus: str | None = None
    tokens: int = 200_000
    n_pos: int = 128
    first: int = 1
    width: int = 8
    k: int = 32
    sparsity: float | None = None
    steps: int = 2000
    batch_size: int = 2048
    learning_rate: float = 1e-3
    memory: float = 2.0
    seed: int = 0

    def config(self, shape: DictionaryConfig) -> SAEConfig:
        """Return how a dictionary of this shape is trained."""
        from cutaway.interp import sae

        return sae.SAEConfig(
            dictionary=shape,
            n_steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            sparsity=_SPARSITY.get(shape.kind, 0.0) if self.sparsity is None else self.sparsity,
            seed=self.seed,
            log_every=max(1, self.steps // 40),
        )

    def k_of(self, kind: Kind) -> int | None:
        """Return k for the kinds that have it."""
        return self.k if kind in ("topk", "batchtopk") else None

    def windows(self, lm: LanguageModel, *, held_out: bool = False) -> Int[Tensor, "window pos"]:
        """Return windows of the corpus to train on, or of its last tenth."""
        from cutaway.interp import sae

        assert self.corpus is not None  # one of corpus and store is needed
        return sae.read_windows(lm, self.corpus, n_pos=self.n_pos, n_tokens=self.tokens, held_out=held_out)


def model_of_dictionary(options: Mapping[str, Any]) -> str | None:
    """Return what the model of a saved dictionary is called, None where there is none or it does not say."""
    from cutaway.interp.sae.folder import name_of_model

    return None if options["sae"] is None else name_of_model(options["sae"])


def train_on(
    models: Sequence[Transformer],
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
    running = sae.ModelActivations(models, tokens, names, first=first, n_buffered=n_buffered)
    source: sae.ActivationSource = running
    if tokens.numel() * d_row * 4 <= memory:
        with count_progress("windows") as counted:
            source = sae.TensorActivations.of(running, progress=counted)
    return train_from(models[0], configs, source, checkpoints=checkpoints)


def train_from(
    model: Transformer, configs: Sequence[SAEConfig], source: ActivationSource, *, checkpoints: Path | None
) -> list[tuple[Dictionary, LearningCurve]]:
    """Train on the rows of a source, and show on a terminal how far it is."""
    from cutaway.interp import sae

    with step_progress() as progress:

        def show(n_done: int, n_total: int, points: Sequence[Point]) -> None:
            fvu, l0 = (sum(getattr(point, name) for point in points) / len(points) for name in ("fvu", "l0"))
            progress(n_done, n_total, f"{100 * fvu:.1f} % unexplained, {l0:.0f} latents")

        return sae.train_together(configs, source, device=model.embed.W_E.device, checkpoints=checkpoints, progress=show)


def open_checked(lm: LanguageModel, folder: Path) -> ActivationStore:
    """Return the store of a folder; raises ValueError for one of another model."""
    from cutaway.interp.store import open_store

    store = open_store(folder)
    store.check_model(lm)
    return store


def layer_of(store: ActivationStore, lm: LanguageModel, site: str) -> int:
    """Return the one layer of which a store holds an activation; raises ValueError where it holds it of none, or of several."""
    from cutaway.interp.sites import full_name

    layers = [layer for layer in range(lm.config.n_layers) if full_name(lm.config, site, layer) in store]
    if len(layers) != 1:
        held = f"{site} of the layers {', '.join(map(str, layers))}: give --layer" if layers else ", ".join(store.names)
        raise ValueError(f"the store in {store.folder} holds {held}{'' if layers else f', and no {site}: give --site'}")
    return layers[0]


def given_or_sketch(
    lm: LanguageModel, folder: Path | None, corpus: str | None, *, source: str = "", n_pos: int, seed: int
) -> Dictionary:
    """Return the dictionary of a folder, which analyses hold against the model; without one a sketch, which is said.

    Without a corpus the sketch learns from what `readable_text` finds for the model that is called `source`.
    """
    from cutaway.interp import sae

    if folder is not None:
        given = sae.load_dictionary(folder, device=lm.model.embed.W_E.device)
        if given.config.model_sha256 is None:
            named = f", only its model's name, {given.config.model}" if given.config.model else ""
            whether = "whether they are this model's is not known"
            said = f"The dictionary in {folder} does not say which weights it learned from{named}: {whether}.\n"
            stderr_console().print(said, style="dim", markup=False, soft_wrap=True)
        return given
    corpus = readable_text(lm, source, lacks="--sae FOLDER") if corpus is None else corpus
    name, d = f"blocks.{lm.config.n_layers // 3}.resid_post", lm.config.d_model
    shape = sae.DictionaryConfig(kind="topk", d_in=d, d_sae=_SKETCH_WIDTH * d, k=min(16, d), name=name)
    tokens = sae.read_windows(lm, corpus, n_pos=n_pos, n_tokens=_SKETCH_TOKENS, held_out=False)
    sentence = f"No dictionary was given (--sae): a sketch of {name} is trained on {tokens.numel():,} tokens of {corpus}.\n"
    stderr_console().print(sentence, style="dim", markup=False, soft_wrap=True)
    config = sae.SAEConfig(dictionary=replace(shape, trained_on=sae.corpus_data(lm, corpus)), seed=seed, **_SKETCH)
    ((dictionary, _),) = train_on([lm.model], [config], tokens, first=min(1, tokens.shape[1] - 1), memory_gib=1.0, checkpoints=None)
    return dictionary


def readable_text(lm: LanguageModel, source: str, *, lacks: str) -> str:
    """Return a text for a sketch: the one that the run called `source` learned from, or else stdlib.

    Raises ValueError, with the option that is lacking, where the tokenizer can read neither.
    """
    from cutaway.runs import Checkpoint, Run
    from cutaway.tokenizers import NoTokenizer
    from cutaway.weights import resolve

    if isinstance(lm.tokenizer, NoTokenizer):
        return "stdlib"  # reading it says what is amiss
    found = resolve(source)
    run = found.run if isinstance(found, Checkpoint) else found if isinstance(found, Run) else None
    own = None if run is None else run.text
    for text in [own, "stdlib"]:
        if text is not None and _is_readable(lm, text):
            return text
    lost = "" if own is None else f", and {own}, which it learned from, is not there or another text now"
    raise ValueError(
        f"a sketch learns from a text, and the {lm.tokenizer.kind} tokenizer of {source} cannot read stdlib{lost}: give one that it "
        f"can read with --corpus TEXT, or {lacks}"
    )


def _is_readable(lm: LanguageModel, text: str) -> bool:
    """Return whether a text is there and the model's tokenizer knows all that it is made of."""
    from cutaway.assets import AssetError
    from cutaway.data import read_corpus, tokenize_corpus

    try:
        return bool(len(tokenize_corpus(read_corpus(text), lm.tokenizer)))
    except (ValueError, AssetError):
        return False


def say_what_shows(folder: Path | None) -> None:
    """Say which verb shows what the features of a saved dictionary stand for."""
    if folder is not None:
        command = f"`cutaway interpret sae pages MODEL --sae {folder} --corpus TEXT --feature N`"
        stderr_console().print(f"What a feature stands for: {command}\n", style="dim", markup=False, soft_wrap=True)


def unseen_windows(
    lm: LanguageModel, sae: Path | None, corpus: str | None, store: Path | None, *, n_tokens: int, n_pos: int, seed: int
) -> tuple[Dictionary, Int[Tensor, "window pos"], TrainingData]:
    """Return a dictionary, or a sketch, and windows of the last tenth of a corpus or a store, which training does not see.

    With them, what text they are of. Raises UsageError for a store without a dictionary.
    """
    from cutaway.interp.sae import corpus_data, read_windows

    if store is None:
        assert corpus is not None  # one of them is needed
        dictionary = given_or_sketch(lm, sae, corpus, n_pos=n_pos, seed=seed)
        return dictionary, read_windows(lm, corpus, n_pos=n_pos, n_tokens=n_tokens, held_out=True), corpus_data(lm, corpus)
    if sae is None:
        raise UsageError("--store says on what is measured, and no dictionary was given: give --sae FOLDER")
    return given_or_sketch(lm, sae, "", n_pos=n_pos, seed=seed), *_stored_windows(lm, store, n_tokens=n_tokens)


def _stored_windows(lm: LanguageModel, folder: Path, *, n_tokens: int) -> tuple[Int[Tensor, "window pos"], TrainingData]:
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
