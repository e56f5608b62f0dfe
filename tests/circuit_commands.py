"""Pairs of prompts for `cutaway interpret circuit`, and how wide what it prints is."""

ASKED = ["--text", "the king", "--corrupted", "the wing", "--target", "s", "--wrong", "e"]
PAIRS = [
    {"clean": "the king", "corrupted": "the wing", "correct": "s", "wrong": "e"},
    {"clean": "the ring", "corrupted": "the sing", "correct": "t", "wrong": "o"},
    {"clean": "his king", "corrupted": "his wing", "correct": "a", "wrong": "e"},
    {"clean": "her ring", "corrupted": "her sing", "correct": "n", "wrong": "i"},
]


def widest(out):
    """The longest line but for the summary, which a terminal breaks."""
    return max(map(len, out.splitlines()[2:]))
