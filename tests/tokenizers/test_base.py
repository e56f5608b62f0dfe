import hashlib
import json
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cutaway.tokenizers import (
    BPETokenizer,
    BytePairTokenizer,
    CharTokenizer,
    StreamDecoder,
    Tokenizer,
    tokenizer_hash,
)

same_tokenizer = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)


def test_the_corpus_comes_back(tokenizer: Tokenizer, corpus: str):
    ids = tokenizer.encode(corpus)
    assert tokenizer.decode(ids) == corpus
    assert tokenizer.decode_bytes(ids) == corpus.encode()
    assert all(type(token_id) is int and 0 <= token_id < tokenizer.d_vocab for token_id in ids)
    assert tokenizer.encode("") == []
    assert tokenizer.decode([]) == ""


def test_d_vocab_is_one_more_than_the_largest_id(tokenizer: Tokenizer):
    assert tokenizer.decode_bytes([tokenizer.d_vocab - 1])
    with pytest.raises(ValueError, match=f"id {tokenizer.d_vocab} has no token.*d_vocab {tokenizer.d_vocab}"):
        tokenizer.decode([tokenizer.d_vocab])
    with pytest.raises(ValueError, match="id -1 has no token"):
        tokenizer.decode([-1])


@pytest.mark.parametrize("text", ["\ud83d", "good \udc00 text", "\ude00\ud83d"])
def test_a_lone_surrogate_is_refused_with_its_place(tokenizer: Tokenizer, text: str):
    place = next(place for place, character in enumerate(text) if "\ud800" <= character <= "\udfff")
    with pytest.raises(ValueError, match=f"lone surrogate, U\\+{ord(text[place]):04X}, at position {place}"):
        tokenizer.encode(text)


@same_tokenizer
@given(data=st.data())
def test_a_stream_is_the_text_and_never_half_a_character(tokenizer: Tokenizer, data: st.DataObject):
    known = st.integers(0, tokenizer.d_vocab - 1).filter(lambda token_id: token_id in tokenizer._bytes_of)
    ids = data.draw(st.lists(known, max_size=30))
    stream = StreamDecoder(tokenizer)
    assert "".join([*map(stream.push, ids), stream.flush()]) == tokenizer.decode(ids)
    assert stream.flush() == ""


@pytest.mark.parametrize("text", ["日本", "a😀b", "😀😀"])
def test_a_stream_shows_a_character_with_its_last_token(tokenizer: Tokenizer, text: str):
    if tokenizer.kind == "char":
        tokenizer = CharTokenizer.fit(text)
    stream = StreamDecoder(tokenizer)
    shown = [stream.push(token_id) for token_id in tokenizer.encode(text)]
    assert "\ufffd" not in "".join(shown)
    assert "".join(shown) == text


def test_a_stream_says_that_a_character_was_left_incomplete():
    stream = StreamDecoder(BPETokenizer())
    first_three_bytes = BPETokenizer().encode("😀")[:3]
    assert [stream.push(token_id) for token_id in first_three_bytes] == ["", "", ""]
    assert stream.flush() == "\ufffd"
    assert stream.push(BPETokenizer().encode("a")[0]) == "a"
    with pytest.raises(ValueError, match="id 256 has no token"):
        stream.push(256)


def test_special_tokens_in_a_users_text_are_ordinary_text(tokenizer: Tokenizer):
    if not tokenizer.special_tokens:
        assert tokenizer.eot is None
        return
    text = "one<|endoftext|>two"
    ordinary = tokenizer.encode(text)
    assert tokenizer.eot not in ordinary
    assert tokenizer.decode(ordinary) == text
    special = tokenizer.encode(text, allow_special=True)
    assert special == [*tokenizer.encode("one"), tokenizer.eot, *tokenizer.encode("two")]
    assert tokenizer.decode(special) == text


def test_the_longest_special_token_is_meant(trained: BPETokenizer):
    longer = trained.special_tokens["<|endoftext|>!"]
    for tokenizer in (trained, BytePairTokenizer.from_bpe(trained)):
        ids = tokenizer.encode("<|endoftext|>!<|endoftext|><|endoftext|>", allow_special=True)
        assert ids == [longer, tokenizer.eot, tokenizer.eot]


def test_added_tokens_are_found_before_text_is_cut():
    tokenizer = BytePairTokenizer(special_tokens={"<|x|>": 256}, added_tokens={"  ": 257, "    ": 258, " <": 259})
    a, blank = tokenizer.encode("a")[0], tokenizer.encode(" ")[0]
    assert tokenizer.encode("a       a") == [a, 258, 257, blank, a]
    assert tokenizer.encode("a <|x|>")[:2] == [a, 259]
    assert tokenizer.encode("a  <|x|>", allow_special=True) == [a, 257, 256]
    assert tokenizer.decode([257, 256, 258]) == "  <|x|>    "


def test_a_state_names_what_begins_and_ends_texts_only_where_it_is_set():
    plain = BytePairTokenizer(special_tokens={"<|x|>": 256})
    assert (plain.bos, plain.eos, plain.adds_bos, plain.added_tokens) == (None, None, False, {})
    assert set(plain.state_dict()) == {"kind", "pattern", "special_tokens", "ids", "tokens"}  # or old hashes would change
    told = BytePairTokenizer(
        special_tokens={"<|x|>": 256}, added_tokens={"  ": 257}, bos_token="<|x|>", eos_token="  ", adds_bos=True
    )
    assert (told.bos, told.eos, told.eot) == (256, 257, None)
    loaded = BytePairTokenizer().load_state_dict(json.loads(json.dumps(told.state_dict())))
    assert (loaded.bos, loaded.eos, loaded.adds_bos, loaded.added_tokens) == (256, 257, True, {"  ": 257})
    assert tokenizer_hash(loaded) == tokenizer_hash(told) != tokenizer_hash(plain)


def test_special_tokens_need_names_and_ids_of_their_own():
    with pytest.raises(ValueError, match=r"the ids \[7\] are given to ordinary and to special tokens"):
        BytePairTokenizer(special_tokens={"<|x|>": 7})
    with pytest.raises(ValueError, match="share an id"):
        BytePairTokenizer(special_tokens={"<|x|>": 300, "<|y|>": 300})
    with pytest.raises(ValueError, match="a special token is empty"):
        BytePairTokenizer(special_tokens={"": 300})
    with pytest.raises(ValueError, match="the id -1 is negative"):
        BytePairTokenizer(special_tokens={"<|x|>": -1})
    with pytest.raises(ValueError, match="share an id, or one a name with an added token"):
        BytePairTokenizer(special_tokens={"<|x|>": 300}, added_tokens={"<|x|>": 301})
    with pytest.raises(ValueError, match=r"the ids \[7\] are given to ordinary and to special tokens"):
        BytePairTokenizer(added_tokens={"  ": 7})
    with pytest.raises(ValueError, match=r"\['<s>'\] begins or ends a text and is no special token"):
        BytePairTokenizer(bos_token="<s>")
    with pytest.raises(ValueError, match="adds_bos is set and there is no bos_token"):
        BytePairTokenizer(adds_bos=True)
    with pytest.raises(ValueError, match="comes twice"):
        BPETokenizer(special_tokens=["<|x|>", "<|x|>"])


def test_the_state_is_plain_json_and_complete(tokenizer: Tokenizer, corpus: str):
    state = json.loads(json.dumps(tokenizer.state_dict()))
    assert state == tokenizer.state_dict()
    assert state["kind"] == tokenizer.kind
    loaded = type(tokenizer)().load_state_dict(state)
    assert loaded.encode(corpus) == tokenizer.encode(corpus)
    assert (loaded.d_vocab, loaded.special_tokens) == (tokenizer.d_vocab, tokenizer.special_tokens)
    assert tokenizer_hash(loaded) == tokenizer_hash(tokenizer)


def test_loading_a_state_replaces_everything_that_was_there():
    tokenizer = BPETokenizer([(b"a", b"b")], special_tokens=["<|x|>"])
    assert tokenizer.encode("ab<|x|>", allow_special=True) == [256, 257]
    assert tokenizer.load_state_dict(BPETokenizer().state_dict()) is tokenizer
    assert len(tokenizer.encode("ab<|x|>", allow_special=True)) == 7
    with pytest.raises(ValueError, match="of kind 'char'; BPETokenizer loads 'bpe'"):
        tokenizer.load_state_dict(CharTokenizer("ab").state_dict())


def test_the_hash_is_that_of_the_canonical_state():
    canonical = '{"characters":"a\\u00e9","kind":"char"}'
    assert tokenizer_hash(CharTokenizer.fit("éaé")) == hashlib.sha256(canonical.encode()).hexdigest()
    assert tokenizer_hash(CharTokenizer("a")) != tokenizer_hash(CharTokenizer("b"))


def test_importing_tokenizers_brings_neither_torch_nor_the_engine():
    heavy = "{'torch', 'tiktoken', 'requests', 'huggingface_hub', 'transformers', 'tokenizers'}"
    command = f"import cutaway.tokenizers, sys; print({heavy} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", command], text=True).strip() == "set()"
