import random
from collections import Counter

import pytest
import regex
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway.tokenizers import GPT2_PATTERN, BPETokenizer, BytePairTokenizer, learn_merges, load_tokenizer
from cutaway.tokenizers.byte_level import BYTES


@pytest.fixture(scope="module")
def engine(trained: BPETokenizer) -> BytePairTokenizer:
    return BytePairTokenizer.from_bpe(trained)


@settings(max_examples=1000)
@given(data=st.data())
def test_what_was_trained_here_has_the_same_ids_on_the_engine(
    trained: BPETokenizer, engine: BytePairTokenizer, texts: st.SearchStrategy[str], data: st.DataObject
):
    text = data.draw(texts)
    assert engine.encode(text) == trained.encode(text)
    assert engine.encode(text, allow_special=True) == trained.encode(text, allow_special=True)
    assert engine.encode_array(text).tolist() == trained.encode_array(text).tolist() == trained.encode(text)


@given(data=st.data())
def test_so_has_whatever_is_learnt_from_any_text(texts: st.SearchStrategy[str], data: st.DataObject):
    text = 2 * data.draw(texts)
    words = Counter(word.encode() for word in regex.findall(GPT2_PATTERN, text))
    bpe = BPETokenizer(learn_merges(words, 20))
    assert BytePairTokenizer.from_bpe(bpe).encode(text) == bpe.encode(text)


@given(text=st.text())
def test_any_text_comes_back(engine: BytePairTokenizer, gpt2: BytePairTokenizer, cl100k: BytePairTokenizer, text: str):
    for tokenizer in (engine, gpt2, cl100k):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.decode_bytes(tokenizer.encode(text)) == text.encode()


def test_the_engine_is_the_same_tokenizer(trained: BPETokenizer, engine: BytePairTokenizer, corpus: str):
    assert engine.encode(corpus) == trained.encode(corpus)
    assert (engine.d_vocab, engine.eot) == (trained.d_vocab, trained.eot)
    assert engine.special_tokens == trained.special_tokens


def test_known_ids(gpt2: BytePairTokenizer, cl100k: BytePairTokenizer):
    assert gpt2.encode("Hello world") == [15496, 995]
    assert (gpt2.d_vocab, gpt2.eot) == (50257, 50256)
    assert cl100k.encode("hello world") == [15339, 1917]
    assert (cl100k.d_vocab, cl100k.eot) == (100277, 100257)
    assert cl100k.encode("a<|fim_prefix|>", allow_special=True)[-1] == 100258


@settings(max_examples=1000)
@given(data=st.data())
def test_gpt2_and_cl100k_are_tiktokens_own(
    gpt2: BytePairTokenizer,
    cl100k: BytePairTokenizer,
    tiktoken_gpt2: tiktoken.Encoding,
    tiktoken_cl100k: tiktoken.Encoding,
    texts: st.SearchStrategy[str],
    data: st.DataObject,
):
    text = data.draw(texts)
    for ours, oracle in ((gpt2, tiktoken_gpt2), (cl100k, tiktoken_cl100k)):
        ids = ours.encode(text)
        assert ids == oracle.encode_ordinary(text)
        assert ours.decode(ids) == text
        assert ours.decode_bytes(ids) == oracle.decode_bytes(ids)
        assert ours.encode(text, allow_special=True) == oracle.encode(text, allowed_special="all")


def test_vocabularies_are_tiktokens_own(
    gpt2: BytePairTokenizer,
    cl100k: BytePairTokenizer,
    tiktoken_gpt2: tiktoken.Encoding,
    tiktoken_cl100k: tiktoken.Encoding,
):
    for ours, oracle in ((gpt2, tiktoken_gpt2), (cl100k, tiktoken_cl100k)):
        assert ours.special_tokens == oracle._special_tokens
        assert ours.d_vocab == oracle.n_vocab
        assert dict(zip(ours.tokens, ours.ids, strict=True)) == oracle._mergeable_ranks


def test_an_unused_id_inside_the_vocabulary_has_no_token(cl100k: BytePairTokenizer):
    with pytest.raises(ValueError, match="id 100256 has no token: the byte_pair tokenizer has d_vocab 100277"):
        cl100k.decode([100256])


def test_a_saved_vocabulary_needs_no_network(gpt2: BytePairTokenizer, tmp_path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_args, **_options):
        raise AssertionError("a saved tokenizer asked for a file")

    gpt2.save(tmp_path / "tokenizer.json")
    monkeypatch.setattr("cutaway.assets.fetch", refuse)
    monkeypatch.setattr("tiktoken.load.read_file", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert isinstance(loaded, BytePairTokenizer)
    assert loaded.encode("Hello world<|endoftext|>", allow_special=True) == [15496, 995, 50256]


def test_ids_may_follow_another_order_than_merging(engine: BytePairTokenizer, corpus: str):
    ids = list(range(1, 1 + len(engine.tokens)))
    random.Random(0).shuffle(ids)
    other = BytePairTokenizer(engine.tokens, special_tokens={"<|endoftext|>": 0}, ids=ids)
    assert other.encode(corpus) == [ids[place] for place in engine.encode(corpus)] == other.encode_array(corpus).tolist()
    assert other.decode(other.encode(corpus)) == corpus
    assert other.encode("<|endoftext|>", allow_special=True) == [other.eot] == [0]
    loaded = load_tokenizer(other.state_dict())
    assert loaded.encode(corpus) == other.encode(corpus)
    assert loaded.d_vocab == other.d_vocab == 1 + len(ids)


def test_a_pattern_with_gaps_loses_no_text():
    letters_only = BytePairTokenizer(pattern=r"\p{L}+")
    assert letters_only.decode(letters_only.encode("a 1!\n日b")) == "a 1!\n日b"


def test_a_byte_that_the_vocabulary_lacks_is_named():
    without_z = BytePairTokenizer([byte for byte in BYTES if byte != b"z"] + [b"ab"])
    assert without_z.decode(without_z.encode("abba")) == "abba"
    with pytest.raises(ValueError, match=r"no token for the byte\(s\) 0x7a of this text"):
        without_z.encode("abz")
    with pytest.raises(ValueError, match="no token for the byte"):
        without_z.encode_array("abz")


def test_tokens_need_bytes_and_ids_of_their_own():
    with pytest.raises(ValueError, match="empty or comes twice"):
        BytePairTokenizer([*BYTES, b"a"])
    with pytest.raises(ValueError, match="empty or comes twice"):
        BytePairTokenizer([*BYTES, b""])
    with pytest.raises(ValueError, match="2 tokens and 1 different ids"):
        BytePairTokenizer([b"a", b"b"], ids=[1, 1])
    with pytest.raises(ValueError, match="2 tokens and 3 different ids"):
        BytePairTokenizer([b"a", b"b"], ids=[1, 2, 3])


def test_blanks_beyond_the_engines_strength_are_refused(engine: BytePairTokenizer):
    many = " " * 400_000 + "a"
    assert engine.decode(engine.encode(many)) == many
    with pytest.raises(ValueError, match="500,000 blank characters in a row"):
        engine.encode(f"a{' ' * 1_100_000}a")


def test_a_file_of_another_layout_is_refused(tmp_path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "cl100k_base.tiktoken").write_text("IQ== 1\n", encoding="utf-8")
    monkeypatch.setattr("cutaway.assets.fetch", lambda name: {f"{name}_base.tiktoken": tmp_path / f"{name}_base.tiktoken"})
    with pytest.raises(ValueError, match="are not 0, 1, 2"):
        BytePairTokenizer.cl100k()
