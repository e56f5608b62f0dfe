"""`cutaway interpret`: a model taken apart, one file a verb. `cutaway interpret NAME` calls the function of that name in its module."""

ABOUT = "what happens inside a model, and what depends on what"
TAKES = "VERB [MODEL] [OPTIONS]"
HINTS = {
    "cutaway interpret VERB --help": "what a verb takes",
    "cutaway interpret VERB --demo": "a worked example of it",
}

VERBS: dict[str, dict[str, str]] = {
    "See": {
        "logit-lens": "what each layer would say next",
        "tuned-lens": "the same, through a translator trained for each layer",
        "attribute": "what wrote the answer: components, heads, positions",
        "residual": "the residual stream by layer: its length, what is added",
        "attention": "where heads look, as a map",
        "probe": "what labels can be read from activations, layer by layer",
    },
    "Find heads": {
        "heads": "every head scored for what it is known to do",
        "induction-heads": "heads that find what came next the last time",
        "composition": "which previous-token head feeds which induction head",
    },
    "Cause": {
        "patch": "activations of one text put into the run of another",
        "trace": "which activations restore a fact after noise",
        "path-patch": "the same between one sender and one receiver alone",
        "attribution-patch": "all patches at once by gradients, the best re-tested",
        "ablate": "what is lost without a head, a layer or a neuron",
        "importance": "heads ranked by what their absence costs",
        "steer": "text written under a vector, and what else it changes",
        "function-vector": "a task from examples, carried by heads as one vector",
        "circuit": "the edges that carry an answer: find, score, minimise",
    },
    "Find features": {
        "sae": "sparse dictionaries: train, evaluate, probe, compare, pages",
        "graph": "which features lead from a text to its next token",
    },
    "Read weights": {
        "weights": "what heads do by their weights alone: QK, OV",
        "fold": "the same model with its norms folded away, as a folder",
    },
    "Keep": {
        "store": "activations of a text written to disk, to learn from",
    },
}
"""The verbs by group, in the order in which they are shown."""

__all__ = ["ABOUT", "TAKES", "HINTS", "VERBS"]
