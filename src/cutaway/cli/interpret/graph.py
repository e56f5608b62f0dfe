"""`cutaway interpret graph`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cutaway.cli.command import excludes, needs_one_of
from cutaway.cli.errors import UsageError
from cutaway.cli.interpret.options import analysis
from cutaway.cli.interpret.overwriting import check_new
from cutaway.report import stderr_console
from cutaway.report.counting import count_progress

if TYPE_CHECKING:
    from cutaway.interp.attribution_graphs import AttributionGraph
    from cutaway.interp.result import Result
    from cutaway.interp.sae import Dictionary, FeaturePages
    from cutaway.language_model import LanguageModel

__all__ = ["graph"]

_SKETCH: dict[str, Any] = {"n_steps": 50, "batch_size": 256, "dead_after": 5000, "log_every": 10}
_SKETCH_TOKENS = 2048
_PAGE_TOKENS, _PAGE_POS = 50_000, 128
_MOST_SKETCHED = 12_000_000  # layers times d_model^2: SmolLM2's are 10 million


def _model_of_graph(options: Mapping[str, Any]) -> str | None:
    """Return what the model of a saved graph is called, None where there is none or it does not say."""
    from cutaway.interp.attribution_graphs.saved import name_of_model

    return None if options["saved"] is None else name_of_model(options["saved"])


@needs_one_of("text", "saved")
@excludes("saved", "text", "target", "pos", "max_features", "memory", "frozen", "seed", why="a saved graph has its own")
@analysis(text="The capital of France is", source_of=_model_of_graph, source_said="a saved graph's own, else the latest run")
def graph(
    lm: LanguageModel,
    *,
    source: str,
    text: str | None = None,
    saved: Path | None = None,
    transcoder: tuple[Path, ...] = (),
    target: tuple[str, ...] = (),
    pos: int = -1,
    max_features: int = 4096,
    memory: float = 2.0,
    frozen: Literal["both", "patterns", "nothing"] = "both",
    node_threshold: float | None = None,
    edge_threshold: float | None = None,
    test: int | None = None,
    factor: float = 0.0,
    out: Path | None = None,
    save: Path | None = None,
    overwrite: bool = False,
    pages: Path | None = None,
    corpus: str | None = None,
    seed: int = 0,
) -> Result:
    """Show which features, through which features, lead from a text's tokens to the next token: its attribution graph.

    Attention and norms are held, and MLPs are what their transcoders make of them, with errors; an MLP without one is an error whole.
    With --test the strongest features are ablated, and runs stand beside what the graph says, down to the model itself. Dunefsky et
    al. 2024; Ameisen et al. 2025.

    Args:
        text: what is read
        saved FOLDER: a graph that --save wrote, to be shown, pruned, written or tested again
        transcoder FOLDER: of one MLP layer, or with a folder for each, saved here or by SAELens; may be given again; sketches of a
            small model unless given, for a saved graph those that it names
        target TOKEN: a next token that is asked about; may be given again; the likeliest unless given
        pos: the position it follows, -1 the last
        max_features: so many features at most, those with most influence
        memory: GiB that may be held at a time
        frozen: what is held at its value: patterns and norms both, patterns alone, or nothing; edges are derivatives through the rest
        node_threshold: the share of the influence that the nodes kept have; 0.8 unless given, or the saved graph's
        edge_threshold: the same of edges; 0.98 unless given, or the saved graph's
        test N: ablate so many features one at a time, and hold what happens against the graph
        factor X: what --test multiplies features with, 0 ablates
        out FILE: write the graph as circuit-tracer's viewer reads it, a .json, and list it in graph-metadata.json beside it; with
            --corpus what features stand for goes into a folder beside it, for self.json into self-features
        save FOLDER: write the whole graph, for --saved and attribution_graphs.load_graph
        overwrite: write it over a graph that is there
        pages FOLDER: pages of features that --report leads to; with --corpus those of the strongest are written there first
        corpus TEXT: what pages and --out show features in, and sketches learn from: a file, a folder, a glob, or stdlib, shakespeare,
            tinyshakespeare; sketches learn from the text of the model's run, or stdlib, unless given
        seed: of the sketches

    Examples:
        cutaway interpret graph --demo
        cutaway interpret graph runs/stdlib --transcoder transcoders --text "def __init__(sel" --save self --out self.json
        cutaway interpret graph --saved self --node-threshold 0.6 --report self.html
        cutaway interpret graph --saved self --test 30

    In Python:
        from cutaway import attribution_graphs, sae
        made = [sae.load_dictionary(folder) for folder in sae.dictionary_folders("transcoders")]
        graph = attribution_graphs.attribute(lm, "The capital of France is", made)
        attribution_graphs.intervene(lm, graph, made, n_features=30).show()
    """
    from cutaway.interp import attribution_graphs

    _check_paths(out, save, pages, None if saved is None and not transcoder else corpus, overwrite=overwrite)
    if factor != 0 and test is None:
        raise UsageError("--factor is what --test multiplies features with: give --test N")
    found: AttributionGraph | None = None
    transcoders: list[Dictionary] = []
    if saved is not None:
        found = attribution_graphs.load_graph(saved, lm)
        transcoder = transcoder or tuple(map(Path, found.folders))
    if found is None or test is not None or corpus is not None:
        transcoders = _given(lm, transcoder) if transcoder or found is not None else _sketches(lm, source, corpus, seed)
    if found is None:
        assert text is not None  # or a saved graph, one of them is needed
        with count_progress("features") as progress:
            found = attribution_graphs.attribute(
                lm, text, transcoders, targets=target or None, pos=pos, max_features=max_features, max_gib=memory, frozen=frozen,
                progress=progress,
            )  # fmt: skip
        found = replace(found, model=source, folders=tuple(map(str, transcoder)))
    found = found.with_thresholds(node=node_threshold, edge=edge_threshold)
    found = _write(found, out, save, pages, _described(lm, found, transcoders, corpus) if corpus and (pages or out) else None)
    if test is None:
        return found
    with count_progress("features") as progress:
        return attribution_graphs.intervene(lm, found, transcoders, n_features=test, factor=factor, progress=progress)


def _check_paths(out: Path | None, save: Path | None, pages: Path | None, shown: str | None, *, overwrite: bool) -> None:
    """Refuse, before anything is computed, files that could not be written, and a text to show features in that is shown nowhere."""
    from cutaway.interp.attribution_graphs.circuit_tracer import check_path
    from cutaway.interp.attribution_graphs.saved import DESCRIPTION, check_folder

    if out is not None:
        check_path(out)
    if save is not None:
        check_folder(save)
        check_new(save, DESCRIPTION, "a graph", overwrite=overwrite)
    if shown is not None and pages is None and out is None:
        raise UsageError("--corpus is what pages of features show: give --pages FOLDER or --out FILE, where they go")


def _described(lm: LanguageModel, graph: AttributionGraph, transcoders: list[Dictionary], corpus: str) -> dict[int, FeaturePages]:
    from cutaway.interp import attribution_graphs, sae

    tokens = sae.read_windows(lm, corpus, n_pos=_PAGE_POS, n_tokens=_PAGE_TOKENS, held_out=True)
    with count_progress("layers") as progress:
        return attribution_graphs.describe_strongest(lm, graph, transcoders, tokens, progress=progress)


def _write(
    graph: AttributionGraph, out: Path | None, save: Path | None, pages: Path | None, described: dict[int, FeaturePages] | None
) -> AttributionGraph:
    """Write the graph where it is asked for, and return it with the pages that it leads to."""
    from cutaway.interp import attribution_graphs

    if out is not None:
        written = attribution_graphs.write_circuit_tracer(graph, out, described=described)
        _say(f"The graph for circuit-tracer's viewer is {written}, and listed beside it in graph-metadata.json.")
    if save is not None:
        _say(f"The graph is in {attribution_graphs.save_graph(graph, save)}.")
    if pages is None:
        return graph
    return (
        attribution_graphs.find_pages(graph, pages)
        if described is None
        else attribution_graphs.write_pages(graph, described, pages)
    )


def _given(lm: LanguageModel, folders: tuple[Path, ...]) -> list[Dictionary]:
    """Return the transcoders of folders, each of one, or with one for each layer.

    Raises ValueError for none, and for a dictionary that is no transcoder of an MLP, with its folder.
    """
    from cutaway.interp import sae
    from cutaway.interp.attribution_graphs.replacement import layer_of

    if not folders:
        raise ValueError("the saved graph does not say where its transcoders are: give them with --transcoder FOLDER")
    weights = lm.model.embed.W_E
    loaded = []
    for folder in [each for given in folders for each in sae.dictionary_folders(given)]:
        loaded.append(sae.load_dictionary(folder, device=weights.device).to(weights.dtype))
        try:
            layer_of(lm.model, loaded[-1])
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None
    return loaded


def _sketches(lm: LanguageModel, source: str, corpus: str | None, seed: int) -> list[Dictionary]:
    """Train transcoders of all layers of a small model in under a minute, and say so.

    Raises ValueError for a model without MLPs, and for one that would take longer, with what to train first.
    """
    from cutaway.cli.interpret.sae.corpus import readable_text, train_on
    from cutaway.interp import sae
    from cutaway.interp.attribution_graphs.replacement import mlp_input

    config, weights = lm.config, lm.model.embed.W_E
    if config.d_mlp == 0:
        raise ValueError("transcoders predict what MLPs write, and this model has none")
    reads = mlp_input(config)
    command = f"`cutaway interpret sae train MODEL --corpus TEXT --layer all --site {reads} --target mlp_out --save FOLDER`"
    if config.n_layers * config.d_model**2 > _MOST_SKETCHED:
        raise ValueError(
            f"no transcoder was given (--transcoder), and the model is too large for sketches: train them with {command}"
        )
    text = readable_text(lm, source, lacks="--transcoder FOLDER") if corpus is None else corpus
    _say(
        f"No transcoder was given (--transcoder): sketches of all layers are trained on {text} in a moment, good to look at and no "
        f"more. Better ones: {command}"
    )
    d = config.d_model
    shapes = [
        sae.DictionaryConfig(
            kind="topk", d_in=d, d_sae=2 * d, k=min(16, d), name=f"blocks.{layer}.{reads}", target=f"blocks.{layer}.mlp_out"
        )
        for layer in range(config.n_layers)
    ]
    configs = [sae.SAEConfig(dictionary=shape, seed=seed, **_SKETCH) for shape in shapes]
    tokens = sae.read_windows(lm, text, n_pos=64, n_tokens=_SKETCH_TOKENS, held_out=False)
    trained = train_on([lm.model], configs, tokens, first=1, memory_gib=1.0, checkpoints=None)
    return [dictionary.to(weights.dtype).eval() for dictionary, _ in trained]


def _say(sentence: str) -> None:
    stderr_console().print(f"{sentence}\n", style="dim", markup=False, soft_wrap=True)
