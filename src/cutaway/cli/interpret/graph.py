"""`cutaway interpret graph`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.cli.interpret.options import analysis
from cutaway.report import stderr_console
from cutaway.report.counting import count_progress

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from cutaway.interp.result import Result
    from cutaway.interp.sae import Dictionary
    from cutaway.language_model import LanguageModel

__all__ = ["graph"]

_SKETCH: dict[str, Any] = {"n_steps": 50, "batch_size": 256, "dead_after": 5000, "log_every": 10}
_MOST_SKETCHED = 12_000_000  # layers times d_model^2: SmolLM2's are 10 million


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
        transcoder FOLDER: of one MLP layer, saved here or by SAELens; given again for each; sketches of a small model unless given
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
        from cutaway import attribution_graphs, sae
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
        written = attribution_graphs.write_circuit_tracer(found, out, transcoder_list=names)
        _say(f"The graph for circuit-tracer's viewer is {written}, and listed beside it in graph-metadata.json.")
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
    """Train transcoders of all layers of a small model in under a minute, and say so.

    Raises ValueError for a model without MLPs, and for one that would take longer, with what to train first.
    """
    from cutaway.interp import sae

    config, weights = lm.config, lm.model.embed.W_E
    if config.d_mlp == 0:
        raise ValueError("transcoders predict what MLPs write, and this model has none")
    reads = "resid_pre" if config.norm == "none" else "ln1.normalized" if config.block == "parallel" else "ln2.normalized"
    command = f"`cutaway interpret sae train MODEL --corpus TEXT --site {reads} --target mlp_out --layer N --save FOLDER`"
    if config.n_layers * config.d_model**2 > _MOST_SKETCHED:
        raise ValueError(
            f"no transcoder was given (--transcoder), and the model is too large for sketches: train them with {command}"
        )
    _say(f"No transcoder was given (--transcoder): sketches of all layers are trained in a moment. Better ones: {command}")
    rows, d = _rows(lm, reads), config.d_model
    made = []
    with count_progress("sketches") as progress:
        for layer in range(config.n_layers):
            name, target = f"blocks.{layer}.{reads}", f"blocks.{layer}.mlp_out"
            shape = sae.DictionaryConfig(kind="topk", d_in=d, d_sae=2 * d, k=min(16, d), name=name, target=target)
            source = sae.TensorActivations(rows[:, 2 * d * layer : 2 * d * (layer + 1)].contiguous())
            made.append(sae.train(sae.SAEConfig(dictionary=shape, seed=seed, **_SKETCH), source, device=weights.device)[0])
            progress(layer + 1, config.n_layers)
    return [each.to(weights.dtype).eval() for each in made]


def _rows(lm: LanguageModel, reads: str) -> Float[Tensor, "row d"]:
    """Return what is read and predicted in every layer, side by side, over windows of the standard library."""
    from cutaway.interp import sae
    from cutaway.interp.sae import read_windows

    tokens = read_windows(lm, "stdlib", n_pos=64, n_tokens=2048, held_out=False)
    names = [f"blocks.{layer}.{part}" for layer in range(lm.config.n_layers) for part in (reads, "mlp_out")]
    with count_progress("windows") as progress:
        return sae.TensorActivations.of(sae.ModelActivations(lm.model, tokens, names, first=1), progress=progress).rows


def _say(sentence: str) -> None:
    stderr_console().print(f"{sentence}\n", style="dim", markup=False, soft_wrap=True)
