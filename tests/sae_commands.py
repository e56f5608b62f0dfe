"""Options of `cutaway interpret sae` that train in a blink, and the text that they are given."""

TEXT = "The capital of France is Paris\nThe capital of England is London\n" * 60
QUICK = ["--steps", "20", "--batch-size", "32", "--n-pos", "16"]
TRAIN = ["interpret", "sae", "train", "words", "--corpus", "text.txt", "--width", "2", "--k", "3", *QUICK]
STORE = ["interpret", "store", "words", "--data", "text.txt", "--n-ctx", "16", "--out", "kept"]
COMPARE = ["interpret", "sae", "compare", "words", "other", "--corpus", "text.txt", "--width", "2", *QUICK]


def narrow_enough(out):
    return max(map(len, (line for line in out.splitlines()[2:] if not line.startswith("The report")))) <= 80
