"""Words with the word that a task makes of each: what a function vector carries."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["WORD_PAIRS"]

_CAPITALS = (
    ("France", "Paris"), ("Germany", "Berlin"), ("Italy", "Rome"), ("Spain", "Madrid"), ("Japan", "Tokyo"), ("China", "Beijing"),
    ("Russia", "Moscow"), ("Egypt", "Cairo"), ("Greece", "Athens"), ("Portugal", "Lisbon"), ("Austria", "Vienna"),
    ("Poland", "Warsaw"), ("Ireland", "Dublin"), ("Norway", "Oslo"), ("Sweden", "Stockholm"), ("Finland", "Helsinki"),
    ("Denmark", "Copenhagen"), ("Hungary", "Budapest"), ("Turkey", "Ankara"), ("Cuba", "Havana"), ("Peru", "Lima"),
    ("Chile", "Santiago"), ("Canada", "Ottawa"), ("Australia", "Canberra"), ("Kenya", "Nairobi"), ("Iraq", "Baghdad"),
    ("Iran", "Tehran"), ("Belgium", "Brussels"), ("Thailand", "Bangkok"), ("Ukraine", "Kiev"),
)  # fmt: skip
_OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("old", "new"), ("up", "down"), ("left", "right"), ("day", "night"), ("black", "white"),
    ("open", "closed"), ("rich", "poor"), ("happy", "sad"), ("fast", "slow"), ("hard", "soft"), ("wet", "dry"), ("light", "dark"),
    ("early", "late"), ("high", "low"), ("strong", "weak"), ("long", "short"), ("good", "bad"), ("true", "false"), ("full", "empty"),
    ("alive", "dead"), ("near", "far"), ("first", "last"), ("before", "after"), ("above", "below"), ("love", "hate"),
    ("war", "peace"), ("win", "lose"), ("young", "elderly"),
)  # fmt: skip

WORD_PAIRS: Mapping[str, tuple[tuple[str, str], ...]] = {"capital": _CAPITALS, "opposite": _OPPOSITES}
"""The pairs by the name of their task."""
