"""Attribution graphs of a small trained model: what its transcoders lose, and what becomes of the graphs' predictions in the model.

`python -m benchmarks.attribution_graphs [--text FILE] [--prompts 8] [--features 30]` trains the preset `shakespeare-char` and, from one
reading of its activations, transcoders for all its layers, as TopK and as JumpReLU. Of each it prints the variance unexplained by layer
and the model's loss with all MLPs replaced, both on text that neither has learned from; then, over prompts drawn from that text, scores
of graphs, and how their predictions for each of the strongest features, ablated or halved, agree with runs that let more and more
respond, down to the model itself. Edges are those of the paper, with patterns and norms frozen, those that go through the norms, and
those through both. Beside it stand the nulls: predictions shuffled, and random directions of the same lengths at the same places. In
float32.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import cutaway
from benchmarks.corpora import shakespeare
from cutaway import attribution_graphs, edits, metrics, sae
from cutaway.interp.attribution_graphs import Frozen, Held, Interventions
from cutaway.interp.attribution_graphs.changes import RESPONDS
from cutaway.interp.running import means
from cutaway.language_model import LanguageModel
from cutaway.runtime import peak_memory_gib, seeded_generator

N_POS, N_LEARNED, N_HELD_OUT = 64, 100_000, 16_384
KINDS: dict[sae.Kind, dict[str, float]] = {"topk": {"k": 16}, "jumprelu": {"sparsity": 0.001}}
EDGES: dict[Frozen, str] = {
    "both": "patterns and norms frozen", "patterns": "edges through the norms", "nothing": "edges through norms and patterns",
}  # fmt: skip
FACTORS = (0.0, 0.5)
LARGEST_GAP, LARGEST_LOSS = 1e-4, 0.1  # of the predictions while all is frozen, in logits; nats that replacing all MLPs may cost


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attribution_graphs", description=__doc__)
    parser.add_argument("--text", help="the text; tiny Shakespeare unless given, or the plays where that cannot be fetched")
    parser.add_argument("--steps", type=int, default=1000, help="of transcoders")
    parser.add_argument("--width", type=int, default=4, help="times as many latents as coordinates")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--length", type=int, default=32, help="of a prompt, in characters")
    parser.add_argument("--features", type=int, default=30, help="ablated, of each prompt")
    arguments = parser.parse_args()
    source, started = arguments.text or shakespeare(), time.perf_counter()
    lm = train_model(source)
    learned, held_out = (
        sae.read_windows(lm, source, n_pos=N_POS, n_tokens=n_tokens, held_out=is_held_out)
        for n_tokens, is_held_out in ((N_LEARNED, False), (N_HELD_OUT, True))
    )
    print(
        f"{source}, {torch.get_num_threads()} threads; the model was trained in {time.perf_counter() - started:.0f} s", flush=True
    )
    rows = sae.TensorActivations.of(sae.ModelActivations(lm, learned, names_of(lm), first=0))
    prompts = drawn(held_out, arguments.prompts, arguments.length)
    for kind, fields in KINDS.items():
        began = time.perf_counter()
        transcoders = train_transcoders(lm, rows, kind, fields, n_steps=arguments.steps, width=arguments.width)
        print(
            f"\n{kind}, {transcoders[0].config.d_sae} latents a layer, {arguments.steps} steps: {time.perf_counter() - began:.0f} s"
        )
        report_replacement(lm, transcoders, held_out)
        for frozen in EDGES:
            report_graphs(lm, transcoders, prompts, frozen, n_features=arguments.features)
    print(f"\n{time.perf_counter() - started:.0f} s in all, peak {peak_memory_gib(torch.device('cpu')):.2f} GiB")


def train_model(source: str) -> LanguageModel:
    with tempfile.TemporaryDirectory() as folder:
        config = cutaway.TrainConfig.preset("shakespeare-char", data=source)
        return cutaway.load(cutaway.train(config.replace(out=str(Path(folder) / "run")), quiet=True), device="cpu")


def names_of(lm: LanguageModel) -> list[str]:
    """Return what transcoders read and predict, layer by layer."""
    return [f"blocks.{layer}.{part}" for layer in range(lm.config.n_layers) for part in ("ln2.normalized", "mlp_out")]


def train_transcoders(
    lm: LanguageModel, rows: sae.TensorActivations, kind: sae.Kind, fields: dict[str, float], *, n_steps: int, width: int
) -> list[sae.Dictionary]:
    d, names = lm.config.d_model, names_of(lm)
    k = int(fields["k"]) if "k" in fields else None
    shapes = [
        sae.DictionaryConfig(kind=kind, d_in=d, d_sae=width * d, k=k, name=reads, target=target)
        for reads, target in zip(names[::2], names[1::2], strict=True)
    ]
    recipe = {"n_steps": n_steps, "batch_size": 512, "learning_rate": 2e-3, "dead_after": 20_000}
    configs = [sae.SAEConfig(dictionary=shape, sparsity=fields.get("sparsity", 0.0), **recipe) for shape in shapes]
    return [dictionary for dictionary, _ in sae.train_together(configs, rows)]


def drawn(windows: Tensor, n_prompts: int, length: int) -> Tensor:
    """Return beginnings of windows drawn at random."""
    order = torch.randperm(len(windows), generator=seeded_generator(0))
    return windows[order[:n_prompts], :length]


def report_replacement(lm: LanguageModel, transcoders: Sequence[sae.Dictionary], tokens: Tensor) -> None:
    """Print the variance unexplained of each layer, and the loss with all MLPs replaced at once."""
    for layer, each in enumerate(transcoders):
        source = sae.ModelActivations(lm, tokens, each.config.row_names, first=0)
        found = sae.measure_reconstruction(each, source.in_order())
        said = f"{100 * found.fvu:.1f} % unexplained with {found.l0:.1f} latents a row, {100 * found.dead:.0f} % never fire"
        print(f"  layer {layer}: {said}")
    targets = [f"blocks.{layer}.mlp_out" for layer in range(lm.config.n_layers)]
    mean = means(lm.model, tokens, targets, over_positions=False)
    variants = [
        [],
        [edit for each in transcoders for edit in sae.splice_transcoder(each)],
        [edits.mean(name, mean[name].mean(0)) for name in targets],
    ]
    own, replaced, ablated = cutaway.sweep(lm.model, tokens, variants, metrics.loss(tokens)).mean(1).tolist()
    print(
        f"  loss {own:.3f} nats, {replaced:.3f} with all MLPs replaced ({replaced - own:+.3f}, at most {LARGEST_LOSS}), "
        f"{ablated:.3f} with their means there",
        flush=True,
    )


def report_graphs(
    lm: LanguageModel, transcoders: Sequence[sae.Dictionary], prompts: Tensor, frozen: Frozen, *, n_features: int
) -> None:
    """Print scores of the prompts' graphs, and how predictions and runs agree, over all prompts together and within each."""
    started = time.perf_counter()
    graphs = [attribution_graphs.attribute(lm, prompt, transcoders, max_logits=3, frozen=frozen) for prompt in prompts]
    found = {
        factor: [attribution_graphs.intervene(lm, graph, transcoders, n_features=n_features, factor=factor) for graph in graphs]
        for factor in FACTORS
    }
    replacement, completeness = (
        statistics.mean(getattr(graph, name) for graph in graphs) for name in ("replacement_score", "completeness_score")
    )
    pooled, time_s = attribution_graphs.pool(found[0.0]), time.perf_counter() - started
    print(
        f"  {EDGES[frozen]}: replacement score {replacement:.2f}, completeness {completeness:.2f}, {len(pooled.labels)} features, "
        f"{time_s:.0f} s"
    )
    print(f"    {'features ablated; what responds':33} correlation  ranks  slope  largest gap")
    for held in pooled.levels:
        print(f"    {RESPONDS[held]:33} {numbers(pooled, held)} {pooled.largest_gap(held):12.1e}")
    halved = attribution_graphs.pool(found[0.5])
    print(f"    {'features halved, in the model':33} {numbers(halved, 'nothing')} {halved.largest_gap('nothing'):12.1e}")
    print(f"    {nulls(pooled, found[0.0])}", flush=True)
    if frozen == "both":
        gap = max(attribution_graphs.pool(each).largest_gap("gates") for each in found.values())
        print(f"    the graph's own account, all frozen, is off by at most {gap:.1e} (at most {LARGEST_GAP:.0e})")


def numbers(found: Interventions, held: Held) -> str:
    correlation, ranks, slope = found.correlation(held), found.rank_correlation(held), found.slope(held)
    return f"{correlation or 0:11.2f} {ranks or 0:6.2f} {slope or 0:6.2f}"


def nulls(pooled: Interventions, found: Sequence[Interventions]) -> str:
    within = [each.correlation() or 0.0 for each in found]
    return (
        f"in the model within a prompt {statistics.median(within):.2f} ({min(within):.2f} to {max(within):.2f}); shuffled below "
        f"{pooled.shuffled or 0:.2f} in 95 %;\n    random directions {pooled.random_correlation or 0:.2f}, and "
        f"{pooled.relative_size:.1f} times weaker"
    )


if __name__ == "__main__":
    main()
