"""`cutaway interpret sae`: sparse dictionaries of activations, one file a verb."""

ABOUT = "activations as sums of few directions, and what each stands for"
TAKES = "VERB [MODEL] [OPTIONS]"
HINTS = {
    "cutaway interpret sae VERB --help": "what a verb takes",
    "cutaway interpret sae VERB --demo": "a worked example of it",
}

VERBS: dict[str, dict[str, str]] = {
    "": {
        "train": "an autoencoder or a transcoder on text",
        "evaluate": "variance unexplained, and the loss with it spliced in",
        "pages": "what features stand for: contexts, logits, a page each",
    },
}
"""The verbs, in the order in which they are shown."""

__all__ = ["ABOUT", "TAKES", "HINTS", "VERBS"]
