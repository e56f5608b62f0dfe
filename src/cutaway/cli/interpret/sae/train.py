"""`cutaway interpret sae train`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cutaway.cli.command import excludes, needs_one_of
from cutaway.cli.errors import UsageError
from cutaway.cli.interpret.options import analysis
from cutaway.cli.interpret.overwriting import check_new
from cutaway.cli.interpret.sae.corpus import Recipe, layer_of, open_checked, train_from, train_on
from cutaway.cli.interpret.sae.saving import check_room, save_trained
from cutaway.report import stderr_console

if TYPE_CHECKING:
    from cutaway.interp.result import Result
    from cutaway.interp.sae import ActivationSource, DictionaryConfig, Kind
    from cutaway.interp.store import ActivationStore
    from cutaway.language_model import LanguageModel

__all__ = ["train"]


@needs_one_of("corpus", "store")
@excludes("store", "corpus", "tokens", "n_pos", "first", "memory", why="a store has its own rows, on the disk")
@analysis(corpus="stdlib", tokens=4096, steps=100, batch_size=256, width=2, k=16, layer="9")
def train(
    lm: LanguageModel,
    *,
    source: str,
    given: Recipe,
    store: Path | None = None,
    layer: str | None = None,
    site: str = "resid_post",
    target: str | None = None,
    skip: bool = False,
    kind: Literal["relu", "topk", "batchtopk", "jumprelu"] = "topk",
    save: Path | None = None,
    overwrite: bool = False,
    resume: Path | None = None,
) -> Result:
    """Train a sparse dictionary of one activation, or from one to another, and show its learning curve.

    Bricken et al. 2023 (relu); Gao et al. 2024 (topk); Bussmann et al. 2024 (batchtopk); Rajamanoharan et al. 2024 (jumprelu). The last
    tenth of a corpus, or of the windows of a store, which `cutaway interpret store` writes, is kept from it, for `evaluate`.

    Args:
        store FOLDER: activations of this model on the disk, instead of a corpus
        layer N: the layer, counted from 0, or all, each with a dictionary of its own from one run of the model; a third of the way up
        site NAME: which activation of it: resid_post, mlp_out, attn_out, attn.z, ...
        target NAME: the activation of the layer that is predicted, where that is another: a transcoder's
        skip: a linear map beside the latents, for a transcoder
        kind: how latents are kept few
        save FOLDER: where the dictionary goes, in the format of SAELens; with all layers a folder of such folders, layer-00 and so on
        overwrite: write it over a dictionary that is there
        resume FOLDER: where the training is kept while it runs and on Ctrl-C, and goes on from if it was interrupted

    Examples:
        cutaway interpret sae train --demo
        cutaway interpret sae train smollm2-135m --corpus shakespeare --layer 9 --save sae-9
        cutaway interpret sae train smollm2-135m --store smollm2-activations --save sae-9
        cutaway train stdlib --out runs/stdlib                                                    a model for the next
        cutaway interpret sae train runs/stdlib --corpus stdlib --layer all --site ln2.normalized --target mlp_out --save transcoders

    In Python:
        from cutaway import sae
        shape = sae.DictionaryConfig(kind="topk", d_in=576, d_sae=4608, k=32, name="blocks.9.resid_post")
        rows = sae.ModelActivations(lm, tokens, shape.name)
        dictionary, curve = sae.train(sae.SAEConfig(dictionary=shape), rows)
        sae.save_dictionary(dictionary, "sae-9")
    """
    from cutaway.interp import sae

    kept = None if store is None else open_checked(lm, store)
    layers = _layers(layer, lm, site, kept)
    folders = _folders(save, layers, is_many=layer == "all", overwrite=overwrite)
    shapes = [_shape(lm, each, site, target, given, skip=skip, kind=kind) for each in layers]
    check_room(folders, shapes)
    with _saying_what_is_kept(resume):
        if kept is not None:
            trained = train_from(lm.model, [given.config(shape) for shape in shapes], _rows(kept, shapes), checkpoints=resume)
        else:
            windows = given.windows(lm)
            data = sae.corpus_data(lm, given.corpus)  # type: ignore[arg-type]  # one of corpus and store is needed
            configs = [given.config(replace(shape, trained_on=data)) for shape in shapes]
            trained = train_on([lm.model], configs, windows, first=given.first, memory_gib=given.memory, checkpoints=resume)
    what = "The dictionary is" if layer != "all" else "The dictionaries are"
    said = f"{what} not saved: --save FOLDER does that."
    if folders:
        save_trained(trained, folders, model=source)
        said = f"{what} in {save}."
    stderr_console().print(f"{said}\n", style="dim", markup=False, soft_wrap=True)
    return trained[0][1] if layer != "all" else sae.LearningCurves(curves=tuple(curve for _, curve in trained))


@contextmanager
def _saying_what_is_kept(folder: Path | None) -> Iterator[None]:
    """Let an interruption before anything was saved say so; the training itself says where it is kept."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        if stopped.args:
            raise
        said = "and nothing was kept: with --resume FOLDER Ctrl-C saves first" if folder is None else "before a step was taken"
        raise KeyboardInterrupt(f"interrupted {said}") from None


def _layers(layer: str | None, lm: LanguageModel, site: str, store: ActivationStore | None) -> Sequence[int]:
    """Return the layers that get a dictionary; raises UsageError for what is no layer's number, nor `all`."""
    if layer == "all":
        return range(lm.config.n_layers)
    if layer is None:
        return [lm.config.n_layers // 3 if store is None else layer_of(store, lm, site)]
    if not layer.isdecimal():
        raise UsageError(f"--layer is {layer!r}; expected a layer's number, counted from 0, or all")
    return [int(layer)]


def _folders(save: Path | None, layers: Sequence[int], *, is_many: bool, overwrite: bool) -> list[Path]:
    """Return where each dictionary goes, checked before any is trained; none where nothing is saved."""
    from cutaway import runtime
    from cutaway.interp.sae.folder import DESCRIPTION, check_folder, layer_folder

    if save is None:
        return []
    folders = [layer_folder(save, layer) for layer in layers] if is_many else [save]
    if is_many:
        runtime.check_folder(save, "the dictionaries", {folder.name for folder in folders})
    for folder in folders:
        check_folder(folder)
        check_new(folder, DESCRIPTION, "a dictionary", overwrite=overwrite)
    return folders


def _rows(store: ActivationStore, shapes: Sequence[DictionaryConfig]) -> ActivationSource:
    """Return the rows of a store to learn from, all but the last tenth of its windows, with what each predicts beside them.

    Raises ValueError for a store of too few windows to hold some out.
    """
    from cutaway.interp import sae

    stored = [store[name].flattened().split()[0] for shape in shapes for name in shape.row_names]
    return stored[0] if len(stored) == 1 else sae.SideBySide(stored)


def _shape(
    lm: LanguageModel, layer: int, site: str, target: str | None, given: Recipe, *, skip: bool, kind: Kind
) -> DictionaryConfig:
    """Return the dictionary's shape; raises ValueError for activations that the model has not."""
    from cutaway.interp import sae
    from cutaway.interp.sae.activations import width_of
    from cutaway.interp.sites import full_name
    from cutaway.weights import model_sha256

    name = full_name(lm.config, site, layer)
    onto = None if target is None else full_name(lm.config, target, layer)
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
