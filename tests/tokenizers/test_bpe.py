import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import regex
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenizers
from cutaway.tokenizers import GPT2_PATTERN, BPETokenizer, learn_merges, merge, to_letters
from cutaway.tokenizers.byte_level import BYTES
from tokenizers import models, pre_tokenizers, trainers


def learn_merges_by_counting_again(words: dict[bytes, int], n_merges: int) -> list[tuple[bytes, bytes]]:
    """The same algorithm without an index: all words are counted again for every merge."""
    spelled = {word: [bytes([byte]) for byte in word] for word in words}
    vocabulary, merges = list(BYTES), []
    for _ in range(n_merges):
        counts = Counter()
        for word, tokens in spelled.items():
            for pair in pairwise(tokens):
                counts[pair] += words[word]
        if max(counts.values(), default=0) < 2:
            break
        best = min(counts, key=lambda pair: (-counts[pair], vocabulary.index(pair[0]), vocabulary.index(pair[1])))
        vocabulary.append(b"".join(best))
        merges.append(best)
        spelled = {word: merge(tokens, best) for word, tokens in spelled.items()}
    return merges


def test_training_as_computed_by_hand():
    # "aaabdaaabac" is one word. Pairs: aa 4, ab 2, bd da ba ac 1. Joined: aa a b d aa a b a c, where "aa a" and "ab" are seen
    # twice, and a, with the smaller id, comes before aa: ab. Then aa ab d aa ab a c: "aa ab" twice, the rest once.
    tokenizer = BPETokenizer.train("aaabdaaabac", d_vocab=259)
    assert tokenizer.merges == [(b"a", b"a"), (b"a", b"b"), (b"aa", b"ab")]
    a, c, d = (BYTES.index(letter) for letter in (b"a", b"c", b"d"))
    assert tokenizer.encode("aaabdaaabac") == [258, d, 258, a, c]
    assert tokenizer.encode("aaaa ab") == [256, 256, BYTES.index(b" "), 257]
    assert tokenizer.decode([258, d, 258, a, c]) == "aaabdaaabac"


def test_a_pair_is_joined_from_left_to_right():
    assert merge([b"a"] * 5, (b"a", b"a")) == [b"aa", b"aa", b"a"]
    assert merge([b"b", b"a", b"b", b"a"], (b"a", b"b")) == [b"b", b"ab", b"a"]
    assert merge([b"ab", b"a", b"b", b"c"], (b"ab", b"a")) == [b"aba", b"b", b"c"]
    assert merge([], (b"a", b"b")) == []


@settings(max_examples=200)
@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=12).map(str.encode), st.integers(1, 5), max_size=8),
    st.integers(0, 20),
)
def test_the_index_changes_nothing(words: dict[bytes, int], n_merges: int):
    assert learn_merges(words, n_merges) == learn_merges_by_counting_again(words, n_merges)


def test_the_order_of_the_words_changes_nothing(corpus: str):
    words = Counter(word.encode() for word in regex.findall(GPT2_PATTERN, corpus))
    assert learn_merges(words, 200) == learn_merges(dict(sorted(words.items())), 200)


def test_training_learns_what_hugging_face_learns(corpus: str):
    oracle = tokenizers.Tokenizer(models.BPE())
    oracle.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, min_frequency=2, initial_alphabet=alphabet, show_progress=False, special_tokens=[]
    )
    oracle.train_from_iterator([corpus], trainer)
    learnt = [tuple(pair) for pair in json.loads(oracle.to_str())["model"]["merges"]]
    assert [tuple(map(to_letters, pair)) for pair in BPETokenizer.train(corpus, d_vocab=2000).merges] == learnt


def test_d_vocab_counts_bytes_merges_and_special_tokens(trained: BPETokenizer):
    assert trained.d_vocab == 1000
    assert len(trained.merges) == 1000 - 256 - 2
    assert trained.special_tokens == {"<|endoftext|>": 998, "<|endoftext|>!": 999}
    assert trained.eot == 998
    assert BPETokenizer.train("", d_vocab=256).d_vocab == 256


def test_training_refuses_what_cannot_be_done():
    with pytest.raises(ValueError, match="d_vocab is 256; the bytes and special tokens alone are 257"):
        BPETokenizer.train("text", d_vocab=256, special_tokens=["<|endoftext|>"])
    with pytest.raises(ValueError, match=r"d_vocab is 300, and this text of 9 characters .* no more than 258"):
        BPETokenizer.train("abcabcabd", d_vocab=300)
    with pytest.raises(ValueError, match="lone surrogate"):
        BPETokenizer.train("\ud800", d_vocab=300)


def test_merges_need_parts_that_were_made_before():
    with pytest.raises(ValueError, match="joins what no earlier merge made"):
        BPETokenizer([(b"ab", b"c"), (b"a", b"b")])
    with pytest.raises(ValueError, match="joins what no earlier merge made"):
        BPETokenizer([(b"a", b"")])
    with pytest.raises(ValueError, match="two merges make the same token"):
        BPETokenizer([(b"a", b"b"), (b"b", b"c"), (b"ab", b"c"), (b"a", b"bc")])


@given(data=st.data())
def test_any_text_comes_back(trained: BPETokenizer, texts: st.SearchStrategy[str], data: st.DataObject):
    text = data.draw(st.one_of(st.text(), texts))
    assert trained.decode(trained.encode(text)) == text
    assert trained.decode_bytes(trained.encode(text)) == text.encode()
    assert trained.decode(trained.encode(text, allow_special=True)) == text
    assert BPETokenizer().decode_bytes(BPETokenizer().encode(text)) == text.encode()


@given(st.binary())
def test_bytes_that_are_no_text_are_replaced_as_python_replaces_them(content: bytes):
    ids = [BYTES.index(bytes([byte])) for byte in content]
    assert BPETokenizer().decode(ids) == content.decode(errors="replace")
    assert BPETokenizer().decode_bytes(ids) == content


def test_gpt2s_known_ids(gpt2_scratch: BPETokenizer):
    assert gpt2_scratch.encode("Hello world") == [15496, 995]
    assert gpt2_scratch.encode("<|endoftext|>") == [27, 91, 437, 1659, 5239, 91, 29]
    assert gpt2_scratch.encode("<|endoftext|>", allow_special=True) == [50256]
    assert (gpt2_scratch.d_vocab, gpt2_scratch.eot) == (50257, 50256)
    assert gpt2_scratch.special_tokens == {"<|endoftext|>": 50256}


@settings(max_examples=2000)
@given(data=st.data())
def test_gpt2s_ids_are_tiktokens(
    gpt2_scratch: BPETokenizer, tiktoken_gpt2: tiktoken.Encoding, texts: st.SearchStrategy[str], data: st.DataObject
):
    text = data.draw(texts)
    assert gpt2_scratch.encode(text) == tiktoken_gpt2.encode_ordinary(text)
    assert gpt2_scratch.encode(text, allow_special=True) == tiktoken_gpt2.encode(text, allowed_special="all")


@settings(max_examples=300)
@given(data=st.data())
def test_gpt2s_ids_are_hugging_faces(
    gpt2_scratch: BPETokenizer,
    hugging_face_gpt2: tokenizers.Tokenizer,
    texts: st.SearchStrategy[str],
    data: st.DataObject,
):
    text = data.draw(texts)
    assert gpt2_scratch.encode(text) == hugging_face_gpt2.encode(text).ids


def test_every_character_of_the_basic_plane_has_tiktokens_ids(gpt2_scratch: BPETokenizer, tiktoken_gpt2: tiktoken.Encoding):
    # Two regular expression engines, with tables of letters, digits and spaces of their own.
    for first in [*range(0, 0xD800, 256), *range(0xE000, 0x10000, 256)]:
        text = "".join(f"a{chr(code)} {chr(code)}1{chr(code)}!" for code in range(first, first + 256))
        assert gpt2_scratch.encode(text) == tiktoken_gpt2.encode_ordinary(text), hex(first)


def test_every_gpt2_token_encodes_to_itself(gpt2_scratch: BPETokenizer):
    # What makes the engine's rule (join neighbours whose bytes are a token) the same as playing back merges.
    for token_id in range(50256):
        token = gpt2_scratch.decode_bytes([token_id])
        assert gpt2_scratch.tokens_of_word(token) == [token]


def test_the_corpus_has_tiktokens_ids(gpt2_scratch: BPETokenizer, tiktoken_gpt2: tiktoken.Encoding, corpus: str):
    assert gpt2_scratch.encode(corpus) == tiktoken_gpt2.encode_ordinary(corpus)


@pytest.fixture(scope="session")
def hugging_face_gpt2(gpt2_files: dict[str, Path]) -> tokenizers.Tokenizer:
    model = models.BPE.from_file(str(gpt2_files["encoder.json"]), str(gpt2_files["vocab.bpe"]))
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def _write_vocabulary(folder: Path, ids: dict[str, int], merges: list[str]) -> tuple[Path, Path]:
    (folder / "encoder.json").write_text(json.dumps(ids), encoding="utf-8")
    (folder / "vocab.bpe").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    return folder / "encoder.json", folder / "vocab.bpe"


def test_files_laid_out_like_gpt2s_are_read(tmp_path: Path):
    ids = {to_letters(byte): token_id for token_id, byte in enumerate(BYTES)} | {"##": 256, "Ġ##": 257, "<|pad|>": 258}
    tokenizer = BPETokenizer.from_gpt2_files(*_write_vocabulary(tmp_path, ids, ["# #", "Ġ ##"]))
    assert tokenizer.merges == [(b"#", b"#"), (b" ", b"##")]
    assert tokenizer.encode(" ##<|pad|>", allow_special=True) == [257, 258]


def test_files_in_another_order_or_broken_are_refused(tmp_path: Path):
    ids = {to_letters(byte): token_id for token_id, byte in enumerate(BYTES)} | {"##": 256, "Ġ##": 257}
    with pytest.raises(ValueError, match="are not the bytes, then the merges"):
        BPETokenizer.from_gpt2_files(*_write_vocabulary(tmp_path, ids | {"##": 257, "Ġ##": 256}, ["# #", "Ġ ##"]))
    with pytest.raises(ValueError, match="'##' is no merge"):
        BPETokenizer.from_gpt2_files(*_write_vocabulary(tmp_path, ids, ["# #", "##"]))
