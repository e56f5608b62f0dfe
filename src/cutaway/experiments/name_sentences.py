"""Sentences about people of whom one gives something to the other: which name ends them follows from the names before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from cutaway.experiments.sentence_templates import Prompts, filled, template_rows, template_words
from cutaway.interp.metrics import Metric, logit_diff
from cutaway.tokenizers import WordTokenizer

__all__ = ["N_NAMES", "NamePrompts", "NameSentences", "name_words"]

_NAMES = (
    "Mary", "John", "Tom", "James", "Sarah", "Anna", "Paul", "Mark", "David", "Peter", "Jack", "Alice", "Emma", "Kate", "Sam", "Ben",
    "Lucy", "Simon", "Nina", "Oscar", "Ruth", "Henry", "Clara", "Felix", "Laura", "Victor", "Helen", "Martin", "Julia", "Robert",
)  # fmt: skip
_PLACES = ("store", "garden", "station", "school", "hospital", "office", "house", "restaurant", "market", "harbour")
_OBJECTS = ("drink", "book", "ring", "computer", "ball", "bag", "letter", "coat", "lamp", "apple")
_TWO_PEOPLE = (
    "When FIRST and SECOND went to the PLACE , GIVER gave a OBJECT to RECEIVER .",
    "Near the PLACE , FIRST saw SECOND . Then GIVER offered a OBJECT to RECEIVER .",
    "There GIVER took a OBJECT when FIRST and SECOND met and gave it to RECEIVER .",
    "Then GIVER bought a OBJECT while FIRST and SECOND talked and gave it to RECEIVER .",
)
"""All as long, the giver named before or after the two."""
_ONE_PERSON = (
    "When FIRST went to the PLACE , the clerk gave a OBJECT to FIRST .",
    "At the PLACE the guard met FIRST and handed a OBJECT to FIRST .",
)
_SLOTS = {slot: -1 - i for i, slot in enumerate(("FIRST", "SECOND", "GIVER", "RECEIVER", "PLACE", "OBJECT"))}
_N_POS = 16  # of a sentence, the shorter ones filled up with full stops
_N_PROMPT = 14  # of what comes before the receiver
_P_THIRD, _P_ONE = 0.2, 0.3  # sentences with a third giver, after which either name may come, and of one person

N_NAMES = len(_NAMES)
"""The names are the tokens 0, 1, ..."""


def name_words() -> WordTokenizer:
    """Return the tokenizer of these sentences: names, places, objects, then the other words."""
    return WordTokenizer([*_NAMES, *_PLACES, *_OBJECTS, *template_words((*_TWO_PEOPLE, *_ONE_PERSON), _SLOTS)])


@dataclass(frozen=True, eq=False)
class NamePrompts(Prompts):
    """Sentences of two people up to the receiver, each beside the same with a third giver, after which neither is likelier."""

    receivers: Int[Tensor, " batch"]
    givers: Int[Tensor, " batch"]
    strangers: Int[Tensor, " batch"]
    """The third givers, who are not in the sentence."""

    @property
    def metric(self) -> Metric:
        """The logit of the receiver less that of the giver, after the last token."""
        return logit_diff(self.receivers, self.givers)


@dataclass(frozen=True, eq=False)
class NameSentences:
    """Where such sentences come from: some pairs of names never come in one sentence."""

    held_out: Bool[Tensor, "name name"]

    @classmethod
    def drawn(cls, p_held_out: float, *, generator: torch.Generator) -> NameSentences:
        """Hold so many of all pairs out, at random."""
        above = torch.triu(torch.rand(N_NAMES, N_NAMES, generator=generator) < p_held_out, diagonal=1)
        return cls(above | above.T)

    def sentences(self, batch_size: int, *, generator: torch.Generator) -> Int[Tensor, "batch pos"]:
        """Return whole sentences to learn from: of two people, of two and a third who gives, and of one."""
        first, second, third = self._people(batch_size, is_held_out=False, generator=generator).unbind(1)
        is_first, kind = (torch.rand(batch_size, generator=generator) for _ in range(2))
        giver, receiver = torch.where(is_first < 0.5, first, second), torch.where(is_first < 0.5, second, first)
        giver = torch.where(kind < _P_THIRD, third, giver)
        people = {"FIRST": first, "SECOND": second, "GIVER": giver, "RECEIVER": receiver}
        all_rows = (template_rows(templates, _SLOTS, name_words(), n_pos=_N_POS) for templates in (_TWO_PEOPLE, _ONE_PERSON))
        of_two, of_one = (
            _filled(rows[torch.randint(len(rows), (batch_size,), generator=generator)], people, generator) for rows in all_rows
        )
        return torch.where((kind < 1 - _P_ONE)[:, None], of_two, of_one)

    def prompts(self, n_prompts: int, *, is_held_out: bool = True, generator: torch.Generator) -> NamePrompts:
        """Return prompts of pairs held out, or of others: of each template as many, in which the first gives and the second."""
        first, second, third = self._people(n_prompts, is_held_out=is_held_out, generator=generator).unbind(1)
        place = torch.arange(n_prompts)
        giver, receiver = torch.where(place % 2 == 0, first, second), torch.where(place % 2 == 0, second, first)
        rows = template_rows(_TWO_PEOPLE, _SLOTS, name_words())[place // 2 % len(_TWO_PEOPLE)][:, :_N_PROMPT]
        rows = _filled(rows, {"FIRST": first, "SECOND": second}, generator)
        clean, other = (filled(rows, _SLOTS, {"GIVER": each}) for each in (giver, third))
        return NamePrompts(clean, other, receiver, giver, third)

    def _people(self, n_rows: int, *, is_held_out: bool, generator: torch.Generator) -> Int[Tensor, "batch 3"]:
        """Return three people each, the first two a pair that is held out, or no two of them one."""
        found: list[Tensor] = []
        while sum(map(len, found)) < n_rows:
            people = torch.rand(8 * n_rows, N_NAMES, generator=generator).topk(3).indices
            a, b, c = people.unbind(1)
            is_pair = self.held_out[a, b]
            found.append(people[is_pair if is_held_out else ~(is_pair | self.held_out[a, c] | self.held_out[b, c])])
        return torch.cat(found)[:n_rows]


def _filled(rows: Int[Tensor, "batch pos"], people: Mapping[str, Tensor], generator: torch.Generator) -> Int[Tensor, "batch pos"]:
    """Return rows with people in their slots, and in each a place and an object."""
    n_rows = len(rows)
    place = N_NAMES + torch.randint(len(_PLACES), (n_rows,), generator=generator)
    thing = N_NAMES + len(_PLACES) + torch.randint(len(_OBJECTS), (n_rows,), generator=generator)
    return filled(rows, _SLOTS, {**people, "PLACE": place, "OBJECT": thing})
