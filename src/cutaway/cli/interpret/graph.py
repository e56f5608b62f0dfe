"""`cutaway interpret graph`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cutaway.cli.interpret.options import analysis
from cutaway.report import stderr_console
from cutaway.report.counting import count_progress

if TYPE_CHECKING:
    from cutaway.interp.result import Result
    from cutaway.interp.sae import Dictionary
    from cutaway.language_model import LanguageModel

__all__ = ["graph"]

_N_SKETCHES = 3


@analysis(text="The capital of France is")
def graph(
    lm: LanguageModel,
    *,
    text: str,
    transcoder: tuple[Path, ...] = (),
    target: tuple[str, ...] = (),
    pos: int = -1,
    max_features: int = 4096,
    memory: float = 2.0,
    test: int | None = None,
    out: Path | None = None,
    save: Path | None = None,
    seed: int = 0,
) -> Result:
    """Show which features, through which features, lead from a text's tokens to the next token: its attribution graph.

    Attention and norms are held, and MLPs are what their transcoders make of them, with errors; an MLP without one is an error whole.
    With --test the strongest features are ablated, and runs stand beside what the graph says. Dunefsky et al. 2024; Ameisen et
    al. 2025.

    Args:
        text: what is read
        transcoder FOLDER: of one MLP layer, saved here or by SAELens; given again for each; sketches are trained where none is given
        target TOKEN: a next token that is asked about; may be given again; the likeliest unless given
        pos: the position it follows, -1 the last
        max_features: so many features at most, those with most influence
        memory: GiB that may be held at a time
        test N: ablate so many features one at a time, and hold what happens against the graph
        out FILE: write the graph as circuit-tracer's viewer reads it, a .json
        save FOLDER: write the whole graph, for attribution_graphs.load_graph
        seed: of the sketches

    Examples:
        cutaway interpret graph --demo
        cutaway interpret graph smollm2-135m --transcoder tc-9 --transcoder tc-19 --text "The capital of France is" --out graph.json

    In Python:
        made = [sae.load_dictionary("tc-9"), sae.load_dictionary("tc-19")]
        graph = attribution_graphs.attribute(lm, "The capital of France is", made)
        attribution_graphs.intervene(lm, graph, made).show()
    """
    from cutaway.interp import attribution_graphs
    from cutaway.interp.attribution_graphs.circuit_tracer import check_path
    from cutaway.interp.attribution_graphs.saved import check_folder

    if out is not None:
        check_path(out)
    if save is not None:
        check_folder(save)
    transcoders = _given(lm, transcoder) if transcoder else _sketches(lm, seed)
    with count_progress("features") as progress:
        found = attribution_graphs.attribute(
            lm, text, transcoders, targets=target or None, pos=pos, max_features=max_features, max_gib=memory, progress=progress
        )
    names = tuple(map(str, transcoder))
    if out is not None:
        _say(f"The graph for circuit-tracer is {attribution_graphs.write_circuit_tracer(found, out, transcoder_list=names)}.")
    if save is not None:
        _say(f"The graph is in {attribution_graphs.save_graph(found, save)}.")
    if test is None:
        return found
    with count_progress("features") as progress:
        return attribution_graphs.intervene(lm, found, transcoders, n_features=test, progress=progress)


def _given(lm: LanguageModel, folders: tuple[Path, ...]) -> list[Dictionary]:
    from cutaway.interp import sae

    weights = lm.model.embed.W_E
    return [sae.load_dictionary(folder, device=weights.device).to(weights.dtype) for folder in folders]


def _sketches(lm: LanguageModel, seed: int) -> list[Dictionary]:
    """Train transcoders of a few layers in a moment, and say so; raises ValueError for a model without MLPs."""
    from cutaway.cli.interpret.sae.corpus import read_windows, train_sketch

    config = lm.config
    if config.d_mlp == 0:
        raise ValueError("transcoders predict what MLPs write, and this model has none")
    n = min(_N_SKETCHES, config.n_layers)
    layers = [(2 * place + 1) * config.n_layers // (2 * n) for place in range(n)]
    reads = "ln1.normalized" if config.block == "parallel" else "ln2.normalized"
    reads = "resid_pre" if config.norm == "none" else reads
    _say(
        f"No transcoder was given (--transcoder): sketches of layers {', '.join(map(str, layers))} are trained. For better ones, "
        f"a layer at a time: `cutaway interpret sae train MODEL --corpus TEXT --site {reads} --target mlp_out --layer N --save FOLDER`"
    )
    tokens = read_windows(lm, "stdlib", n_pos=64, n_tokens=2048, held_out=False)
    names = [(f"blocks.{layer}.{reads}", f"blocks.{layer}.mlp_out") for layer in layers]
    return [train_sketch(lm, tokens, name, target=target, seed=seed) for name, target in names]


def _say(sentence: str) -> None:
    stderr_console().print(f"{sentence}\n", style="dim", markup=False, soft_wrap=True)
