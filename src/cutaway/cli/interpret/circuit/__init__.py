"""`cutaway interpret circuit`: the edges of a model that carry an answer. `... circuit NAME` calls the function NAME of its module."""

ABOUT = "the edges of a model that carry an answer"
TAKES = "VERB [CIRCUIT] [MODEL] [OPTIONS]"
HINTS = {
    "cutaway interpret circuit VERB --help": "what a verb takes",
    "cutaway interpret circuit find --demo": "a worked example of it",
}

VERBS: dict[str, dict[str, str]] = {
    "Circuits": {
        "find": "score the edges, keep the best, check them on other prompts",
        "run": "what the model says with everything outside ablated",
        "score": "how faithful, complete and minimal, beside random ones",
        "minimise": "take out the edges that it can do without",
        "compare": "what two circuits have in common",
        "draw": "as a picture, and its nodes and edges as tables",
    },
}
"""The verbs by group, in the order in which they are shown."""

__all__ = ["ABOUT", "TAKES", "HINTS", "VERBS"]
