"""`cutaway interpret sae train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cutaway.cli.command import excludes, needs_one_of
from cutaway.cli.interpret.options import analysis
from cutaway.cli.interpret.sae.corpus import Recipe, layer_of, open_checked, train_from, train_on
from cutaway.report import stderr_console

if TYPE_CHECKING:
    from cutaway.interp.result import Result
    from cutaway.interp.sae import ActivationSource, DictionaryConfig, Kind
    from cutaway.interp.store import ActivationStore
    from cutaway.language_model import LanguageModel

__all__ = ["train"]


@needs_one_of("corpus", "store")
@excludes("store", "corpus", "tokens", "n_pos", "first", "memory", why="a store has its own rows, on the disk")
@analysis(corpus="stdlib", tokens=4096, steps=100, batch_size=256, width=2, k=16, layer=9)
def train(
    lm: LanguageModel,
    *,
    given: Recipe,
    store: Path | None = None,
    layer: int | None = None,
    site: str = "resid_post",
    target: str | None = None,
    skip: bool = False,
    kind: Literal["relu", "topk", "batchtopk", "jumprelu"] = "topk",
    save: Path | None = None,
    resume: Path | None = None,
) -> Result:
    """Train a sparse dictionary of one activation, or from one to another, and show its learning curve.

    Bricken et al. 2023 (relu); Gao et al. 2024 (topk); Bussmann et al. 2024 (batchtopk); Rajamanoharan et al. 2024 (jumprelu). The last
    tenth of a corpus is kept from it, for `evaluate`; of a store, which `cutaway interpret store` writes, all rows are learned from.

    Args:
        store FOLDER: activations of this model on the disk, instead of a corpus
        layer: the layer, counted from 0; a third of the way up unless given, or the one that the store holds
        site NAME: which activation of it: resid_post, mlp_out, attn_out, attn.z, ...
        target NAME: the activation of the layer that is predicted, where that is another: a transcoder's
        skip: a linear map beside the latents, for a transcoder
        kind: how latents are kept few
        save FOLDER: where the dictionary goes, in the format of SAELens
        resume FOLDER: where the training is kept while it runs, and goes on from if it was interrupted

    Examples:
        cutaway interpret sae train --demo
        cutaway interpret sae train smollm2-135m --corpus shakespeare --layer 9 --save sae-9
        cutaway interpret sae train smollm2-135m --store smollm2-activations --save sae-9

    In Python:
        from cutaway import sae
        shape = sae.DictionaryConfig(kind="topk", d_in=576, d_sae=4608, k=32, name="blocks.9.resid_post")
        rows = sae.ModelActivations(lm, tokens, shape.name)
        dictionary, curve = sae.train(sae.SAEConfig(dictionary=shape), rows)
        sae.save_dictionary(dictionary, "sae-9")
    """
    from cutaway.interp import sae
    from cutaway.interp.sae.folder import check_folder

    if save is not None:
        check_folder(save)
    kept = None if store is None else open_checked(lm, store)
    if kept is not None and layer is None:
        layer = layer_of(kept, lm, site)
    shape = _shape(lm, layer, site, target, given, skip=skip, kind=kind)
    if kept is not None:
        dictionary, curve = train_from(lm.model, given.config(shape), _rows(kept, shape), checkpoints=resume)
    else:
        dictionary, curve = train_on(
            [lm.model], given.config(shape), given.windows(lm), first=given.first, memory_gib=given.memory, checkpoints=resume
        )
    said = "The dictionary is not saved: --save FOLDER does that."
    if save is not None:
        sae.save_dictionary(dictionary, save, curve=curve.to_json())
        said = f"The dictionary is in {save}."
    stderr_console().print(f"{said}\n", style="dim", markup=False, soft_wrap=True)
    return curve


def _rows(store: ActivationStore, shape: DictionaryConfig) -> ActivationSource:
    """Return the rows of a store that a dictionary reads, with what it predicts beside them where that is something else."""
    from cutaway.interp import sae

    read = store[shape.name].flattened()
    if shape.target is None or not shape.is_transcoder:
        return read
    return sae.SideBySide([read, store[shape.target].flattened()])


def _shape(
    lm: LanguageModel, layer: int | None, site: str, target: str | None, given: Recipe, *, skip: bool, kind: Kind
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
        kind=kind,
        d_in=d_in,
        d_sae=given.width * d_in,
        name=name,
        target=onto,
        d_out=0 if onto is None else width_of(lm.model, onto),
        k=given.k_of(kind),
        has_skip=skip,
        model_sha256=model_sha256(lm.model),
    )
