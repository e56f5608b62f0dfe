"""Heads found by what they do: on random tokens that come twice, and by what their weights copy."""

from cutaway.interp.heads.detection import detect_heads
from cutaway.interp.heads.induction import InductionHeads, induction_heads
from cutaway.interp.heads.repeated_tokens import RepeatedTokens, repeated_tokens
from cutaway.interp.heads.scores import KIND_NAMES, THRESHOLD, HeadKind, HeadScore, HeadScores

__all__ = [
    "HeadKind",
    "HeadScore",
    "HeadScores",
    "KIND_NAMES",
    "THRESHOLD",
    "detect_heads",
    "InductionHeads",
    "induction_heads",
    "RepeatedTokens",
    "repeated_tokens",
]
