"""`cutaway interpret sae compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cutaway.cli.command import excludes, needs_one_of
from cutaway.cli.errors import UsageError
from cutaway.cli.interpret.options import analysis
from cutaway.cli.interpret.overwriting import check_new
from cutaway.cli.interpret.sae.corpus import Recipe, layer_of, open_checked, train_from, train_on
from cutaway.cli.interpret.sae.saving import check_room, save_trained
from cutaway.cli.loading import load_named
from cutaway.report import stderr_console
from cutaway.report.counting import count_progress

if TYPE_CHECKING:
    from cutaway.interp.result import Result
    from cutaway.interp.sae import Dictionary, Kind
    from cutaway.language_model import LanguageModel

__all__ = ["compare"]

_SHUFFLED = "shuffled"
_MEASURED = 8192


@needs_one_of("corpus")
@excludes("sae", "store", "layer", "site", "kind", "width", "k", "sparsity", "steps", "batch_size", "learning_rate", "save",
          why="a crosscoder that is read is not trained")  # fmt: skip
@analysis(
    before=_SHUFFLED, corpus="stdlib", tokens=3072, n_pos=64, steps=200, batch_size=256, learning_rate=3e-3, width=1, layer=9,
    site="attn_out",
)  # fmt: skip
def compare(
    lm: LanguageModel,
    before: str,
    /,
    *,
    source: str,
    given: Recipe,
    store: tuple[Path, ...] = (),
    sae: Path | None = None,
    layer: int | None = None,
    site: str = "resid_post",
    kind: Literal["relu", "topk", "batchtopk", "jumprelu"] = "relu",
    save: Path | None = None,
    overwrite: bool = False,
) -> Result:
    """Compare two checkpoints by one dictionary of both, a crosscoder: which latents both have, and which one of them alone.

    A latent has a direction in either model; what share of the two lengths is in the second says whose it is. Latents are counted that
    fire on the last tenth of the corpus, which training does not see, and some of each kind are shown where they are strongest there.
    Lindsey et al. 2024.

    Args:
        before: the first of the two, a checkpoint or a model; `shuffled` is the second with the entries of its weights shuffled
        store FOLDER: activations on the disk, of the first and then of the second model, both of one text: what is trained on
        sae FOLDER: a crosscoder of these two that was saved; it is not trained anew
        layer: the layer, counted from 0; a third of the way up unless given
        site NAME: which activation of it: resid_post, mlp_out, attn_out, attn.z, ...
        kind: how latents are kept few; relu has the paper's penalty, by which a latent's lengths in both models count
        save FOLDER: where the crosscoder goes
        overwrite: write it over a dictionary that is there

    Examples:
        cutaway interpret sae compare --demo
        cutaway train stdlib --out runs/stdlib                                                    trains what is compared
        cutaway interpret sae compare runs/stdlib/checkpoints/step-000500 runs/stdlib --corpus stdlib --layer 2 --save crosscoder
        cutaway interpret sae compare runs/stdlib/checkpoints/step-000500 runs/stdlib --corpus stdlib --sae crosscoder

    In Python:
        import cutaway
        from cutaway import sae
        first = cutaway.load("runs/stdlib/checkpoints/step-000500")
        second = cutaway.load("runs/stdlib")
        models = [first.model, second.model]
        tokens = sae.read_windows(second, "stdlib", n_pos=64, n_tokens=200_000, held_out=False)
        shape = sae.crosscoder_config(models, "blocks.2.resid_post")
        made, curve = sae.train(sae.SAEConfig(dictionary=shape, sparsity=0.1), sae.ModelActivations(models, tokens, shape.name))
        sae.compare_models(made, first, second, tokens).show()
    """
    from cutaway.interp.sae import compare_models, load_dictionary
    from cutaway.interp.sae.crosscoder import check_same_tokens
    from cutaway.interp.sae.folder import DESCRIPTION, check_folder

    if save is not None:
        check_folder(save)
        check_new(save, DESCRIPTION, "a dictionary", overwrite=overwrite)
    first = _first(before, lm)
    check_same_tokens(first, lm)
    pair = [first, lm]
    made = (
        load_dictionary(sae, device=lm.model.embed.W_E.device)
        if sae is not None
        else _trained(pair, given, store, layer, site, kind, save)
    )
    windows = given.windows(lm, held_out=True)
    with count_progress("windows") as progress:
        return compare_models(
            made, first, lm, windows[: max(1, _MEASURED // windows.shape[1])], names=_names(before, source), skip_first=given.first,
            progress=progress,
        )  # fmt: skip


def _first(before: str, lm: LanguageModel) -> LanguageModel:
    from cutaway.interp.sae import shuffled_model
    from cutaway.language_model import LanguageModel

    if before != _SHUFFLED:
        return load_named(before, device=lm.model.embed.W_E.device.type)
    return LanguageModel(shuffled_model(lm.model), lm.tokenizer)


def _trained(
    pair: Sequence[LanguageModel],
    given: Recipe,
    stores: tuple[Path, ...],
    layer: int | None,
    site: str,
    kind: Kind,
    save: Path | None,
) -> Dictionary:
    """Return a crosscoder of both models, trained from stores or on the corpus, and write it where it is to be kept."""
    from cutaway.interp import sae
    from cutaway.interp.sites import full_name

    models = [each.model for each in pair]
    if stores and len(stores) != 2:
        raise UsageError("--store was given once: give it twice, for the first model and for the second")
    kept = [open_checked(each, folder) for each, folder in zip(pair, stores, strict=True)] if stores else []
    if kept and layer is None:
        layer = layer_of(kept[0], pair[0], site)
    config = pair[1].config
    name = full_name(config, site, config.n_layers // 3 if layer is None else layer)
    shape = sae.crosscoder_config(models, name, width=given.width, kind=kind, k=given.k_of(kind))
    if save is not None:
        check_room([save], [shape])
    if kept:
        ((made, curve),) = train_from(models[1], [given.config(shape)], sae.stored_side_by_side(kept, name), checkpoints=None)
    else:
        ((made, curve),) = train_on(
            models, [given.config(shape)], given.windows(pair[1]), first=given.first, memory_gib=given.memory, checkpoints=None
        )
    said = "The crosscoder is not saved: --save FOLDER does that."
    if save is not None:
        save_trained([(made, curve)], [save])
        said = f"The crosscoder is in {save}; --sae {save} shows it again."
    stderr_console().print(f"{curve.summary()}\n{said}\n", style="dim", markup=False, soft_wrap=True)
    return made


def _names(before: str, source: str) -> tuple[str, str]:
    """Return what the two are called: the last part of their paths where these differ."""
    short = Path(before).name, Path(source).name
    return short if short[0] != short[1] else (before, source) if before != source else ("the first", "the second")
