"""`cutaway interpret sae`: sparse dictionaries of activations, one file a verb."""

ABOUT = "activations as sums of few directions"
TAKES = "VERB [MODEL] [OPTIONS]"
HINTS = {
    "cutaway interpret sae VERB --help": "what a verb takes",
    "cutaway interpret sae VERB --demo": "a worked example of it",
}

VERBS: dict[str, dict[str, str]] = {
    "Sparse dictionaries": {
        "train": "an autoencoder or a transcoder on text",
        "evaluate": "variance unexplained, and the loss with it spliced in",
        "probe": "how few latents tell a label, beside all coordinates",
        "compare": "two checkpoints: latents of both, and of one alone",
        "pages": "what features stand for: contexts, logits, a page each",
        "effects": "what an answer loses without each feature",
        "keep": "some features kept, all else ablated: how faithful",
    },
}
"""The verbs, in the order in which they are shown."""

__all__ = ["ABOUT", "TAKES", "HINTS", "VERBS"]
