"""Texts with labels that a probe can look for: what number a subject has, and whether something is past."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["LABELLED_TEXTS", "LabelledTexts", "subject_number", "tense"]

_SUBJECTS = (
    ("key", "keys", "to"), ("picture", "pictures", "of"), ("letter", "letters", "from"), ("road", "roads", "to"),
    ("report", "reports", "about"), ("window", "windows", "of"), ("door", "doors", "of"), ("book", "books", "about"),
    ("song", "songs", "about"), ("friend", "friends", "of"), ("tree", "trees", "behind"), ("bridge", "bridges", "near"),
    ("lamp", "lamps", "above"), ("boat", "boats", "beside"), ("coat", "coats", "of"), ("map", "maps", "of"),
)  # fmt: skip
_OTHERS = (("garden", "gardens"), ("teacher", "teachers"), ("village", "villages"), ("house", "houses"))

_WHO = ("farmer", "teacher", "doctor", "girl", "old man", "neighbour", "soldier", "painter")
_DID = (
    ("walked", "walks", "to the market"), ("opened", "opens", "the window"), ("cooked", "cooks", "the dinner"),
    ("cleaned", "cleans", "the kitchen"), ("called", "calls", "a friend"), ("watched", "watches", "the birds"),
)  # fmt: skip


@dataclass(frozen=True)
class LabelledTexts:
    """Texts, each with its label and with what it shares words with: no group should be both learned and tested."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    groups: tuple[str, ...]


def subject_number() -> LabelledTexts:
    """Return subjects followed by another noun of either number, "The keys to the garden", told apart by the number of the first.

    The last noun says nothing of it. A verb that comes next is of the subject's number: ` is` or ` are`.
    """
    rows = [
        (f"The {subject} {how} the {other}", label, forms[0])
        for number, (*forms, how) in enumerate(_SUBJECTS)
        for label, subject in zip(("singular", "plural"), forms, strict=True)
        for other in _OTHERS[number % len(_OTHERS)]
    ]
    return LabelledTexts(*zip(*rows, strict=True))


def tense() -> LabelledTexts:
    """Return what somebody did or does, told apart by when; both end in the same words."""
    rows = [
        (f"The {who} {verb} {what}", label, verbs[0])
        for *verbs, what in _DID
        for who in _WHO
        for label, verb in zip(("past", "present"), verbs, strict=True)
    ]
    return LabelledTexts(*zip(*rows, strict=True))


LABELLED_TEXTS: Mapping[str, Callable[[], LabelledTexts]] = {"number": subject_number, "tense": tense}
"""The texts by name."""
