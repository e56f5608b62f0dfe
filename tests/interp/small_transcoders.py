"""Small transcoders in float64, and by how much the parts of a graph miss what its targets read."""

import torch

from cutaway import sae

EXACT = 1e-9  # float64: the same sums in another order, values of about 10


def a_transcoder(model, layer, kind="topk", *, reads=None, has_skip=False, d_sae=24, seed=0):
    d = model.config.d_model
    reads = reads or ("ln2.normalized" if model.config.block == "sequential" and model.config.norm != "none" else "resid_pre")
    config = sae.DictionaryConfig(
        kind=kind, d_in=d, d_sae=d_sae, k=5 if "topk" in kind else None, name=f"blocks.{layer}.{reads}",
        target=f"blocks.{layer}.mlp_out", has_skip=has_skip,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(17 * layer + seed)
    made = sae.make_dictionary(config, generator=generator).double().eval()
    with torch.no_grad():
        for weight in (made.b_enc, made.b_dec, *([made.W_skip] if has_skip else [])):
            weight += 0.2 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return made.requires_grad_(False)


def gap(graph):
    return (graph.edges.sum(1) + graph.biases + graph.left_out - graph.values).abs().max().item()
