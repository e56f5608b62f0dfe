"""Labelled texts: balanced, and their ends say nothing of the label."""

from collections import Counter

import pytest

from cutaway.experiments.labelled_texts import LABELLED_TEXTS


@pytest.mark.parametrize("name", LABELLED_TEXTS)
def test_the_last_word_says_nothing_of_the_label(name: str) -> None:
    made = LABELLED_TEXTS[name]()
    assert len(made.texts) == len(made.labels) == len(made.groups) == len(set(made.texts))
    assert len(set(Counter(made.labels).values())) == 1
    ends = Counter((text.split()[-1], label) for text, label in zip(made.texts, made.labels, strict=True))
    assert {end: n for (end, label), n in ends.items() if label == made.labels[0]} == {
        end: n for (end, label), n in ends.items() if label != made.labels[0]
    }
    of_group = Counter(zip(made.groups, made.labels, strict=True))
    assert len(set(of_group.values())) == 1  # every group has as many of each
