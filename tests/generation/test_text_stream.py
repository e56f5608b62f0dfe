"""Text as it comes: however the tokens cut it, what is shown is the text before the first stop string, and never taken back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway.generation import TextStream
from cutaway.tokenizers import BPETokenizer, CharTokenizer

# Bytes, and merges that end in the middle of a character, begin in one, or hold several.
EURO, SMILE = "€".encode(), "😀".encode()
MERGES = [
    (b"a", b"b"),
    (b"ab", b"a"),
    (b"aba", b"ab"),
    (EURO[:1], EURO[1:2]),
    (EURO[:2], EURO[2:]),
    (b"b", EURO[:1]),
    (EURO[2:], b"a"),
    (SMILE[:1], SMILE[1:2]),
    (SMILE[2:3], SMILE[3:]),
    (SMILE[3:], b"a"),
]
TOKENIZER = BPETokenizer(MERGES)
TOKEN_IDS = sorted({*TOKENIZER.encode("ab" * 2 + " "), *(TOKENIZER.d_vocab - 1 - place for place in range(len(MERGES)))})
TOKEN_IDS += [token for token in range(256) if TOKENIZER.decode_bytes([token]) in {EURO[1:2], EURO[2:], SMILE[1:2], b"b", b"\xff"}]


def stream(tokens: list[int], stop: list[str], tokenizer: BPETokenizer | CharTokenizer = TOKENIZER) -> tuple[list[str], bool]:
    """The pieces shown, and whether a stop string came; tokens after that are not pushed, as in decoding."""
    text_stream, pieces = TextStream(tokenizer, stop), []
    for token in tokens:
        pieces.append(text_stream.push(token))
        if text_stream.is_done:
            break
    return [*pieces, text_stream.flush()], text_stream.is_done


def cut(text: str, stop: list[str]) -> str:
    """The naive oracle: grow the text by a character until it holds a stop string, and cut where the first of those begins."""
    for end in range(len(text) + 1):
        if starts := [text[:end].index(string) for string in stop if string in text[:end]]:
            return text[: min(starts)]
    return text


@settings(deadline=None, max_examples=500)
@given(
    tokens=st.lists(st.sampled_from(TOKEN_IDS), max_size=20),
    stop=st.lists(st.text("ab", min_size=1, max_size=3) | st.text("ab€😀\ufffd", min_size=1, max_size=4), max_size=3),
)
def test_what_is_shown_is_the_text_before_the_first_stop_string(tokens: list[int], stop: list[str]) -> None:
    text = TOKENIZER.decode(tokens)
    pieces, is_done = stream(tokens, stop)
    assert "".join(pieces) == cut(text, stop)
    assert is_done == any(string in text for string in stop)


@settings(deadline=None, max_examples=200)
@given(
    text=st.text("ab€😀", max_size=15),
    stop=st.lists(st.text("ab€😀", min_size=1, max_size=4), max_size=3),
)
def test_text_is_shown_as_soon_as_it_is_certain(text: str, stop: list[str]) -> None:
    """Nothing is held that no continuation could make part of a stop string."""
    tokenizer = CharTokenizer.fit("ab€😀")
    text_stream, shown = TextStream(tokenizer, stop), ""
    for end, token in enumerate(tokenizer.encode(text), start=1):
        shown += text_stream.push(token)
        if text_stream.is_done:
            assert shown == cut(text[:end], stop)
            return
        begun = [n for string in stop for n in range(1, len(string)) if text[:end].endswith(string[:n])]
        assert shown == text[: end - max(begun, default=0)]


def test_a_character_comes_whole() -> None:
    tokens = [token for byte in "a😀€".encode() for token in range(256) if TOKENIZER.decode_bytes([token]) == bytes([byte])]
    assert stream(tokens, [])[0] == ["a", "", "", "", "😀", "", "", "€", ""]


def test_half_a_character_at_the_end_is_shown_as_such() -> None:
    euro = TOKENIZER.encode("€a")[:1]
    assert TOKENIZER.decode_bytes(euro) == EURO
    half = [token for token in TOKEN_IDS if TOKENIZER.decode_bytes([token]) == EURO[:2]]
    assert stream(euro + half, [])[0] == ["€", "", "\ufffd"]


@pytest.mark.parametrize(
    ("text", "stop", "pieces"),
    [
        ("abcd", ["cd"], ["a", "b", "", "", ""]),  # over several tokens
        ("ab\n\nab", ["\n\n"], ["a", "b", "", "", ""]),
        ("abc", ["a"], ["", ""]),  # at the very first character
        ("aab", ["aab"], ["", "", "", ""]),  # the whole text
        ("aaab", ["aab"], ["", "", "a", "", ""]),  # the held beginning was a false start by one
        ("abac", ["abad"], ["", "", "", "abac", ""]),  # so far, and then not
        ("abad", ["abac", "bad"], ["", "", "", "a", ""]),  # overlapping: one fails, another inside it holds
        ("abcd", ["abcde", "c"], ["", "", "ab", ""]),  # the longer one never came
        ("xabc", ["abc", "bc"], ["x", "", "", "", ""]),  # two end together: the text ends before the longer
        ("xab", ["abc"], ["x", "", "", "ab"]),  # nothing more comes: what was held is released
        ("xab", [], ["x", "a", "b", ""]),
    ],
)
def test_stop_strings(text: str, stop: list[str], pieces: list[str]) -> None:
    tokenizer = CharTokenizer.fit("abcdex\n")
    assert stream(tokenizer.encode(text), stop, tokenizer)[0] == pieces


def test_how_tokens_cut_the_text_makes_no_difference() -> None:
    whole, apart = BPETokenizer([(b"a", b"b"), (b"ab", b"c")]), BPETokenizer()
    for stop in (["abc", "b"], ["b", "abc"]):  # "b" is complete before "abc" is
        shown = {"".join(stream(tokenizer.encode("abc"), stop, tokenizer)[0]) for tokenizer in (whole, apart)}
        assert shown == {"a"}


def test_nothing_comes_after_the_stop_string() -> None:
    tokenizer = CharTokenizer.fit("abc")
    text_stream = TextStream(tokenizer, ["b"])
    assert [text_stream.push(token) for token in tokenizer.encode("abcabc")] == ["a", "", "", "", "", ""]
    assert text_stream.is_done
    assert text_stream.flush() == ""


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="a stop string is empty; give at least one character"):
        TextStream(TOKENIZER, ["a", ""])
