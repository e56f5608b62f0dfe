"""Facts about people who do not exist, told in sentences: who plays, lives, speaks and works, by first name and family name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from cutaway.tokenizers import WordTokenizer
from cutaway.training.step import UNJUDGED

__all__ = ["FRAMES", "RELATIONS", "FactTexts", "Prompt", "SyntheticFacts"]

RELATIONS: Mapping[str, tuple[str, ...]] = {
    "plays the": (
        "flute", "harp", "violin", "cello", "oboe", "tuba", "drum", "piano", "organ", "lute", "horn", "viola", "guitar", "banjo",
        "trumpet", "clarinet",
    ),
    "lives in": (
        "Paris", "Rome", "Oslo", "Lima", "Cairo", "Tokyo", "Delhi", "Bern", "Quito", "Dublin", "Prague", "Vienna", "Lisbon", "Havana",
        "Nairobi", "Ottawa",
    ),
    "speaks": (
        "French", "Italian", "Danish", "Greek", "Arabic", "Hindi", "Polish", "Czech", "Dutch", "Irish", "Turkish", "Finnish",
        "Swahili", "Korean", "Welsh", "Latin",
    ),
    "works as a": (
        "baker", "doctor", "lawyer", "farmer", "tailor", "pilot", "nurse", "judge", "miner", "sailor", "teacher", "painter", "dentist",
        "butcher", "barber", "fisher",
    ),
}  # fmt: skip
"""What is said of people, with what each can be."""
FRAMES = tuple(
    " ".join(filter(None, (before, "{name}", between, "{said}")))
    for before, between in product(
        ("", "we know that", "{other} says that", "unlike {other} ,"), ("", "still", ", unlike {another} ,", "and not {another}")
    )
)
"""The ways in which a fact is told: nobody else is named, or someone before whom it is about, or after, or both."""
_FIRST = ("Ada", "Ben", "Eva", "Hugo", "Ida", "Leo", "Mia", "Noah")
_PARTICLES: tuple[tuple[str, ...], ...] = ((), ("van",), ("de",))
_LAST = (
    "Abel", "Bach", "Cole", "Dorn", "Ekman", "Falk", "Grey", "Hahn", "Iver", "Jung", "Klein", "Lang", "Moor", "Nash", "Olsen",
    "Pohl", "Quinn", "Reed", "Stark", "Thorn", "Ulm", "Voss", "Webb", "Young", "Zorn", "Beck", "Dahl", "Frost", "Hart", "Kern",
)  # fmt: skip


class Prompt(NamedTuple):
    """A sentence up to a fact, whom it is about, and what it goes on with."""

    text: str
    name: str
    answer: str


class FactTexts(NamedTuple):
    """Rows of sentences, and what comes next where that is a fact; where it is not, the target is one that losses leave out."""

    tokens: Int[Tensor, "batch pos"]
    targets: Int[Tensor, "batch pos"]


@dataclass(frozen=True, eq=False)
class SyntheticFacts:
    """Everyone who has one of the first names and one of the family names, with a word of each relation that is drawn at random.

    Only both names together tell a fact. Some people have a particle between the two, which says nothing more.
    """

    people: tuple[tuple[str, ...], ...]
    values: Int[Tensor, "person relation"]
    """Which of the relation's words is true."""
    held_out: Int[Tensor, "person relation"]
    """The frame in which a fact is never told in texts."""

    @classmethod
    def drawn(cls, n_first: int, n_last: int, *, generator: torch.Generator) -> SyntheticFacts:
        """Draw particles, facts and what is held out; raises ValueError for more names than there are."""
        if not (1 <= n_first <= len(_FIRST) and 2 <= n_last <= len(_LAST)):
            raise ValueError(f"{n_first} first and {n_last} family names; there are 1 to {len(_FIRST)} and 2 to {len(_LAST)}")
        names = list(product(_FIRST[:n_first], _LAST[:n_last]))
        particles = torch.randint(len(_PARTICLES), (len(names),), generator=generator).tolist()
        people = tuple((first, *_PARTICLES[kind], last) for (first, last), kind in zip(names, particles, strict=True))
        shape = (len(names), len(RELATIONS))
        n_words = len(next(iter(RELATIONS.values())))
        values, held_out = (torch.randint(n, shape, generator=generator) for n in (n_words, len(FRAMES)))
        return cls(people, values, held_out)

    @cached_property
    def tokenizer(self) -> WordTokenizer:
        """Knows every word of these texts."""
        told = [word for text in (*FRAMES, *RELATIONS) for word in text.split() if "{" not in word]
        names = [word for person in self.people for word in person]
        return WordTokenizer(dict.fromkeys([".", *told, *names, *(word for words in RELATIONS.values() for word in words)]))

    def guess(self, *, by: int) -> float:
        """Return how often the likeliest word is right for who knows the relation and one name: 0 the first, -1 the family name."""
        shares = []
        for name in dict.fromkeys(person[by] for person in self.people):
            of_name = self.values[[person[by] == name for person in self.people]]
            shares += [int(column.bincount().max()) / len(column) for column in of_name.unbind(1)]
        return sum(shares) / len(shares)

    def prompt(self, person: int, relation: int, *, frame: int, others: Sequence[int]) -> Prompt:
        """Return a fact up to the word that it goes on with, told in a frame; `others` are the two who may be named besides."""
        said, words = list(RELATIONS.items())[relation]
        name, other, another = (" ".join(self.people[each]) for each in (person, *others))
        text = FRAMES[frame].format(name=name, other=other, another=another, said=said)
        return Prompt(text, name, words[int(self.values[person, relation])])

    def entry(self, person: int, order: Sequence[int]) -> list[str]:
        """Return the words of an entry as in a register: a name, and one word of each relation in this order."""
        words = list(RELATIONS.values())
        return [*self.people[person], *(words[relation][int(self.values[person, relation])] for relation in order)]

    def texts(self, batch_size: int, *, p_entry: float, generator: torch.Generator) -> FactTexts:
        """Draw entries, with `p_entry`, and sentences, each of a fact in any frame but the one that is held out of it."""
        n_people, n_relations = self.values.shape
        person = torch.randint(n_people, (batch_size,), generator=generator)
        others = (person[:, None] + torch.randint(1, n_people, (batch_size, 2), generator=generator)) % n_people
        order = torch.rand(batch_size, n_relations, generator=generator).argsort(1)
        held_out = self.held_out[person, order[:, 0]]
        frame = (held_out + torch.randint(1, len(FRAMES), (batch_size,), generator=generator)) % len(FRAMES)
        is_entry = torch.rand(batch_size, generator=generator) < p_entry
        rows = []
        for one, two, relations, told, as_entry in zip(
            *(each.tolist() for each in (person, others, order, frame, is_entry)), strict=True
        ):
            if as_entry:
                rows.append((self.entry(one, relations), n_relations))
            else:
                prompt = self.prompt(one, relations[0], frame=told, others=two)
                rows.append(([*prompt.text.split(), prompt.answer], 1))
        return self._padded([(self.tokenizer.encode(" ".join(words)), n_facts) for words, n_facts in rows])

    def _padded(self, rows: Sequence[tuple[list[int], int]]) -> FactTexts:
        """Return rows, whose last so many ids are facts, as tensors of one length: after a row's end come full stops."""
        n_pos = max(len(ids) for ids, _ in rows) - 1
        tokens = torch.zeros(len(rows), n_pos, dtype=torch.long)
        targets = torch.full_like(tokens, UNJUDGED)
        for row, (ids, n_facts) in enumerate(rows):
            end = len(ids) - 1
            tokens[row, :end] = torch.tensor(ids[:-1])
            targets[row, end - n_facts : end] = torch.tensor(ids[-n_facts:])
        return FactTexts(tokens, targets)
