import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tokenizers
from cutaway.tokenizers import (
    LLAMA3_PATTERN,
    QWEN2_PATTERN,
    SMOLLM_PATTERN,
    BPETokenizer,
    BytePairTokenizer,
    CharTokenizer,
    Tokenizer,
    load_tokenizer,
    read_tokenizer_folder,
    to_letters,
    tokenizer_hash,
    write_tokenizer_json,
)
from cutaway.tokenizers.splits import pre_tokenizer_of
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers

BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False)
ONLY_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
CUTS = {
    "as GPT-2": BYTE_LEVEL,
    "digits one by one": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTE_LEVEL]),
    "digits together": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False), BYTE_LEVEL]),
    "as Llama 3": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated"), ONLY_BYTES]),
    "as Qwen 2": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated"), ONLY_BYTES]),
    "with gaps": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\p{L}+| \d"), "isolated"), ONLY_BYTES]),
}


def train(cut: pre_tokenizers.PreTokenizer, corpus: str) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = cut, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        special_tokens=["<|endoftext|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([corpus], trainer)
    tokenizer.add_tokens([AddedToken("        "), AddedToken("\t\t"), AddedToken("def ")])
    return tokenizer


@pytest.fixture(scope="module", params=CUTS)
def oracle(request: pytest.FixtureRequest, corpus: str) -> tokenizers.Tokenizer:
    """Hugging Face's tokenizer with each cut, trained on the corpus, with special and with ordinary added tokens."""
    return train(CUTS[request.param], corpus)


@pytest.fixture(scope="module")
def ours(oracle: tokenizers.Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("model")
    oracle.save(str(folder / "tokenizer.json"))
    return read_tokenizer_folder(folder)


@settings(max_examples=400)
@given(data=st.data())
def test_ids_are_hugging_faces(ours: Tokenizer, oracle: tokenizers.Tokenizer, texts: st.SearchStrategy[str], data: st.DataObject):
    text = data.draw(
        st.one_of(texts, st.lists(st.sampled_from([" " * 8, "\t", "def ", "a", "1", "\n", " "]), max_size=9).map("".join))
    )
    assert ours.encode(text, allow_special=True) == oracle.encode(text).ids


def test_ids_of_mixtures_are_hugging_faces(
    ours: Tokenizer, oracle: tokenizers.Tokenizer, mixtures: Callable[[int], list[str]], corpus: str
):
    for text in [*mixtures(1000), corpus]:
        ids = ours.encode(text, allow_special=True)
        assert ids == oracle.encode(text).ids
        assert ours.decode(ids) == text == oracle.decode(ids, skip_special_tokens=False)


def test_what_is_written_gives_hugging_face_the_same_ids(ours: Tokenizer, mixtures: Callable[[int], list[str]], tmp_path: Path):
    write_tokenizer_json(ours, tmp_path)
    written = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in mixtures(500):
        assert written.encode(text).ids == ours.encode(text, allow_special=True)
    assert written.get_vocab_size() == ours.d_vocab
    read = read_tokenizer_folder(tmp_path)
    assert tokenizer_hash(read) == tokenizer_hash(ours)
    assert tokenizer_hash(load_tokenizer(ours.state_dict())) == tokenizer_hash(ours)


def test_words_may_be_taken_whole(corpus: str, tmp_path: Path, mixtures: Callable[[int], list[str]]):
    oracle = train(CUTS["as Llama 3"], corpus)
    content = json.loads(oracle.to_str())
    words = [to_letters(word.encode()) for word in (" interpretability", "wholeword", " 日本語")]
    # Where the vocabulary has gaps, the library renumbers added tokens that are not in it too.
    content["model"]["vocab"] |= {token["content"]: token["id"] for token in content["added_tokens"]}
    content["model"]["vocab"] |= {word: 5000 + place for place, word in enumerate(words)}
    for ignores_merges in (True, False):
        content["model"]["ignore_merges"] = ignores_merges
        (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
        oracle, ours = tokenizers.Tokenizer.from_str(json.dumps(content)), read_tokenizer_folder(tmp_path)
        for text in [*mixtures(200), "interpretability interpretability", "wholeword wholewords", "a 日本語 日本語日本語"]:
            assert ours.encode(text, allow_special=True) == oracle.encode(text).ids
        assert (5000 in ours.encode("an interpretability")) is ignores_merges
        assert ours.decode([5000]) == " interpretability"
        write_tokenizer_json(ours, tmp_path / "written")
        assert tokenizer_hash(read_tokenizer_folder(tmp_path / "written")) == tokenizer_hash(ours)


# Where texts begin and end


def write_model(folder: Path, oracle: tokenizers.Tokenizer, **files: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    oracle.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("files", "bos_token", "eos_token", "adds_bos"),
    [
        ({}, None, None, False),
        ({"config": {"bos_token_id": 0, "eos_token_id": [1, 0]}}, "<|endoftext|>", "<|im_end|>", False),
        ({"special_tokens_map": {"eos_token": {"content": "<|im_end|>"}}}, None, "<|im_end|>", False),
        (
            {"special_tokens_map": {"eos_token": "<|im_end|>"}, "tokenizer_config": {"eos_token": "<|endoftext|>"}},
            None,
            "<|endoftext|>",
            False,
        ),
        ({"tokenizer_config": {"bos_token": None}, "config": {"bos_token_id": 0}}, None, None, False),
        ({"tokenizer_config": {"bos_token": "<|im_end|>", "add_bos_token": True}}, "<|im_end|>", None, True),
        ({"tokenizer_config": {"add_bos_token": True}}, None, None, False),
    ],
)
def test_which_tokens_begin_and_end_a_text(files, bos_token, eos_token, adds_bos, corpus: str, tmp_path: Path):
    tokenizer = read_tokenizer_folder(write_model(tmp_path, train(BYTE_LEVEL, corpus), **files))
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.adds_bos) == (bos_token, eos_token, adds_bos)
    ids = {"<|endoftext|>": 0, "<|im_end|>": 1, None: None}
    assert (tokenizer.bos, tokenizer.eos, tokenizer.eot) == (ids[bos_token], ids[eos_token], 0)


def test_a_template_says_how_texts_begin(corpus: str, tmp_path: Path):
    oracle = train(BYTE_LEVEL, corpus)
    template = processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    oracle.post_processor = processors.Sequence([processors.ByteLevel(), template])
    tokenizer = read_tokenizer_folder(write_model(tmp_path, oracle))
    assert (tokenizer.bos_token, tokenizer.adds_bos) == ("<|endoftext|>", True)
    assert oracle.encode("a text").ids == [tokenizer.bos, *tokenizer.encode("a text")]
    write_tokenizer_json(tokenizer, tmp_path / "written")
    assert tokenizers.Tokenizer.from_file(str(tmp_path / "written" / "tokenizer.json")).encode("a").ids[0] == 0
    assert tokenizer_hash(read_tokenizer_folder(tmp_path / "written")) == tokenizer_hash(tokenizer)
    assert not read_tokenizer_folder(write_model(tmp_path, oracle, tokenizer_config={"add_bos_token": False})).adds_bos
    with pytest.raises(ValueError, match=r"puts '<\|endoftext\|>' before every text, and bos_token is '<\|im_end\|>'"):
        read_tokenizer_folder(write_model(tmp_path, oracle, tokenizer_config={"bos_token": "<|im_end|>"}))
    oracle.post_processor = processors.TemplateProcessing(single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)])
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match="expected nothing, or a template of one special token and the text"):
        read_tokenizer_folder(write_model(tmp_path, oracle))


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "phi"])
def test_transformers_reads_what_is_written(model_type: str, corpus: str, tmp_path: Path):
    """Its classes for these families may change a tokenizer as they read it: this one they must leave as it is."""
    files = {"tokenizer_config": {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "add_bos_token": True}}
    ours = read_tokenizer_folder(write_model(tmp_path, train(CUTS["digits one by one"], corpus), **files))
    write_tokenizer_json(ours, tmp_path / "written")
    (tmp_path / "written" / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "written")
    text = "  a 1234 text<|im_end|>\n"
    assert theirs(text)["input_ids"] == [ours.bos, *ours.encode(text, allow_special=True)]
    assert (theirs.bos_token, theirs.eos_token) == (ours.bos_token, ours.eos_token)
    assert theirs.decode(ours.encode(text)) == text


# GPT-2's form: vocab.json and merges.txt


@pytest.fixture(scope="module")
def gpt2_folder(gpt2_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2")
    shutil.copy(gpt2_files["encoder.json"], folder / "vocab.json")
    shutil.copy(gpt2_files["vocab.bpe"], folder / "merges.txt")
    return folder


def test_gpt2s_folder_is_gpt2(gpt2_folder: Path, gpt2: BytePairTokenizer, mixtures: Callable[[int], list[str]]):
    ours = read_tokenizer_folder(gpt2_folder)
    assert (ours.tokens, ours.ids, ours.pattern, ours.special_tokens) == (gpt2.tokens, gpt2.ids, gpt2.pattern, gpt2.special_tokens)
    assert (ours.bos, ours.eos, ours.adds_bos, ours.d_vocab) == (50256, 50256, False, 50257)
    theirs = transformers.GPT2Tokenizer(str(gpt2_folder / "vocab.json"), str(gpt2_folder / "merges.txt"))
    for text in mixtures(500):
        assert ours.encode(text, allow_special=True) == theirs(text)["input_ids"]


BLANKS = [" " * n_blanks for n_blanks in range(31, 1, -1)] + ["\t" * n_tabs for n_tabs in range(9, 1, -1)]
"""CodeGen's added tokens, from id 50257: Phi-2 has them in added_tokens.json."""


@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([" ", "  ", " " * 40, "\t", "\t\t\t", "\n", "a", "if x:", "1"]), max_size=9).map("".join))
def test_runs_of_blanks_are_codegens(codegen: Tokenizer, codegen_oracle: tokenizers.Tokenizer, text: str):
    assert codegen.encode(text) == codegen_oracle.encode(text).ids
    assert codegen.decode(codegen.encode(text)) == text


@pytest.fixture(scope="module")
def codegen(gpt2_folder: Path) -> Tokenizer:
    added = {blank: 50257 + place for place, blank in enumerate(BLANKS)}
    (gpt2_folder / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")
    try:
        return read_tokenizer_folder(gpt2_folder)
    finally:
        (gpt2_folder / "added_tokens.json").unlink()


@pytest.fixture(scope="module")
def codegen_oracle(gpt2_folder: Path) -> tokenizers.Tokenizer:
    oracle = tokenizers.Tokenizer(models.BPE.from_file(str(gpt2_folder / "vocab.json"), str(gpt2_folder / "merges.txt")))
    oracle.pre_tokenizer = BYTE_LEVEL
    oracle.add_tokens([AddedToken(blank, normalized=True) for blank in BLANKS])
    return oracle


def test_codegens_vocabulary(codegen: Tokenizer, gpt2: BytePairTokenizer, tmp_path: Path):
    assert (codegen.d_vocab, codegen.eot, codegen.bos) == (50295, 50256, 50256)
    assert codegen.unused_ids == []  # the padded ids of the model, up to 51,200, are no ids of the tokenizer
    assert codegen.encode(" " * 31 + "\t\tx") == [50257, 50294, *gpt2.encode("x")]
    assert codegen.encode(" " * 40) == [50257, 50279]  # 31 and 9 blanks
    write_tokenizer_json(codegen, tmp_path)
    assert tokenizer_hash(read_tokenizer_folder(tmp_path)) == tokenizer_hash(codegen)
    assert tokenizer_hash(codegen) != tokenizer_hash(gpt2)


def test_added_tokens_may_stand_in_the_configuration(tmp_path: Path):
    id_of = {to_letters(bytes([byte])): byte for byte in range(256)} | {"he": 256, "<|endoftext|>": 257}
    (tmp_path / "vocab.json").write_text(json.dumps(id_of), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\nh e\n", encoding="utf-8")
    told = {"258": {"content": "<|user|>", "special": True}, "259": {"content": "he he", "special": False}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": told}), encoding="utf-8")
    tokenizer = read_tokenizer_folder(tmp_path)
    assert tokenizer.special_tokens == {"<|endoftext|>": 257, "<|user|>": 258}
    assert tokenizer.added_tokens == {"he he": 259}
    assert tokenizer.encode("he he he<|user|>", allow_special=True) == [259, 32, 256, 258]


# Tokenizers of ours


@pytest.mark.parametrize("name", ["trained", "gpt2", "cl100k"])
def test_our_tokenizers_are_theirs(name: str, request: pytest.FixtureRequest, mixtures: Callable[[int], list[str]], tmp_path: Path):
    tokenizer: Tokenizer = request.getfixturevalue(name)
    write_tokenizer_json(tokenizer, tmp_path)
    written = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in mixtures(1000):
        assert written.encode(text).ids == tokenizer.encode(text, allow_special=True)
    read = read_tokenizer_folder(tmp_path)
    assert isinstance(read, BytePairTokenizer)
    same = BytePairTokenizer.from_bpe(tokenizer) if isinstance(tokenizer, BPETokenizer) else tokenizer
    assert tokenizer_hash(read) == tokenizer_hash(same)


def test_characters_are_words(corpus: str, tmp_path: Path):
    ours = CharTokenizer.fit(corpus + "日本😀\r\n")
    write_tokenizer_json(ours, tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = corpus[:20_000] + "日本😀\r\n \n"
    assert theirs.encode(text).ids == ours.encode(text)
    assert theirs.decode(ours.encode(text)) == text
    with pytest.raises(Exception, match="UNK"):
        theirs.encode("ж")
    assert read_tokenizer_folder(tmp_path).state_dict() == ours.state_dict()


def test_what_tokenizer_json_cannot_hold_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"has '\$', which tiktoken's engine and Hugging Face's read differently"):
        write_tokenizer_json(BytePairTokenizer(pattern=r"\s+$|."), tmp_path)
    with pytest.raises(ValueError, match="'a' is written as an ordinary one is"):
        write_tokenizer_json(BytePairTokenizer(special_tokens={"a": 256}), tmp_path)
    assert list(tmp_path.iterdir()) == []


# Bad input


def tokenizer_json(**changes: Any) -> dict[str, Any]:
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]} | changes.pop("model", {})
    return {"model": model, "pre_tokenizer": pre_tokenizer_of(SMOLLM_PATTERN), "added_tokens": [], "normalizer": None} | changes


def added(**changes: Any) -> dict[str, Any]:
    return {"added_tokens": [{"id": 3, "content": "<s>", "special": True} | changes]}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model": {"type": "Unigram"}}, "model is 'Unigram'; only byte-level BPE"),
        ({"model": {"type": "WordPiece"}}, "model is 'WordPiece'"),
        ({"model": {"type": "WordLevel"}}, "model is 'WordLevel'"),
        ({"model": {"byte_fallback": True}}, "byte_fallback is True"),
        ({"model": {"dropout": 0.1}}, "dropout is 0.1"),
        ({"model": {"continuing_subword_prefix": "##"}}, "continuing_subword_prefix is '##'"),
        ({"normalizer": {"type": "NFC"}}, "normalizer is 'NFC'"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend"}]}}, "normalizer is 'Sequence'"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "pre_tokenizer is Metaspace"),
        ({"pre_tokenizer": None}, "pre_tokenizer is not set"),
        ({"post_processor": {"type": "BertProcessing"}}, "post_processor is BertProcessing"),
        (added(lstrip=True), "lstrip is True, for the added token '<s>'"),
        (added(rstrip=True), "rstrip is True"),
        (added(single_word=True), "single_word is True"),
        (added(content="ab"), "the token 'ab' has the ids 2 and 3"),
        (added(id=2), "share the id 2"),
        (added(id=2**31), "has the id 2147483648; expected a whole number from 0 to"),
        (added(id=-1), "has the id -1"),
        (added(id="3"), "has the id '3'"),
        ({"model": {"vocab": {"a": 0, "b": 1, "ab": 1}}}, "the tokens 'b' and 'ab' share the id 1"),
        ({"model": {"vocab": {"a": 0, "b": 1}}}, "the merge 'a b' needs the tokens 'a', 'b' and 'ab'"),
        ({"model": {"merges": ["a b", "a b"]}}, "the merge 'a b' comes twice"),
        ({"model": {"merges": ["ab"]}}, "'ab' is no merge"),
        ({"model": {"merges": [["a", "b", "a"]]}}, "is no merge"),
        ({"model": {"merges": [3]}}, "is damaged"),
        ({"model": {"vocab": ["a"]}}, "is damaged"),
        ({"model": None}, "is damaged"),
        ({"added_tokens": [{"id": 3}]}, "is damaged .KeyError: 'content'"),
    ],
)
def test_a_tokenizer_json_that_cannot_be_read_is_named(
    changes: dict[str, Any], complaint: str, tmp_path: Path, without_type_checks: None
):
    content = {"model": None} if changes.get("model", 0) is None else tokenizer_json(**changes)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=complaint) as caught:
        read_tokenizer_folder(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "tokenizer.json"))
    assert str(caught.value).count(str(tmp_path)) == 1


@pytest.mark.parametrize("content", ["", "{", "[1]", '"a"', "\udcff", "[" * 100_000])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json"])
def test_damaged_json_is_named(content: str, name: str, tmp_path: Path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_json()), encoding="utf-8")
    (tmp_path / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=f"{name}.*(is not JSON in UTF-8|expected a JSON object)"):
        read_tokenizer_folder(tmp_path)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"bos_token": "<bos>"}, "bos_token is '<bos>', which the vocabulary lacks"),
        ({"add_eos_token": True}, "add_eos_token is True"),
        ({"add_prefix_space": True}, "add_prefix_space is True"),
        ({"added_tokens_decoder": {"x": {}}}, "tokenizer_config.json"),
        ({"eos_token": {"text": "a"}}, "is damaged"),
    ],
)
def test_settings_that_cannot_be_kept_are_named(config: dict[str, Any], complaint: str, tmp_path: Path, without_type_checks: None):
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_json()), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=complaint):
        read_tokenizer_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"), [("merges.txt", "ab\n"), ("merges.txt", "a b c\n"), ("vocab.json", "[]"), ("added_tokens.json", "[")]
)
def test_damage_in_gpt2s_form_is_named(name: str, content: str, tmp_path: Path):
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "ab": 2}), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n", encoding="utf-8")
    assert read_tokenizer_folder(tmp_path).encode("abba") == [2, 1, 0]
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=name):
        read_tokenizer_folder(tmp_path)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path):
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\x0e")
    with pytest.raises(ValueError, match=r"has no tokenizer that can be read: expected tokenizer\.json, or vocab\.json"):
        read_tokenizer_folder(tmp_path)
