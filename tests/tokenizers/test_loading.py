from pathlib import Path

import pytest

from cutaway.tokenizers import BPETokenizer, CharTokenizer, Tokenizer, load_tokenizer


def test_what_is_saved_is_loaded(tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save(tmp_path / "run" / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "run" / "tokenizer.json")
    assert type(loaded) is type(tokenizer)
    assert loaded.state_dict() == tokenizer.state_dict()
    text = 'def main():\n    return "text"\n'
    assert loaded.encode(text) == tokenizer.encode(text)


def test_a_path_may_be_a_string_and_a_state_needs_no_file(trained: BPETokenizer, tmp_path: Path):
    trained.save(tmp_path / "tokenizer.json")
    for source in (str(tmp_path / "tokenizer.json"), trained.state_dict()):
        assert load_tokenizer(source).state_dict() == trained.state_dict()


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        load_tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("not json", "is not JSON"),
        ("[1]", r"holds \[1\]; expected a JSON object"),
        ('{"model": {"type": "BPE"}}', "of kind None; expected a tokenizer saved by cutaway"),
        ('{"kind": "sound"}', "of kind 'sound'; expected .* char, word, bpe, byte_pair"),
        ('{"kind": ["char"]}', "of kind"),
        ('{"kind": "char"}', "is no whole char tokenizer .*'characters'"),
        ('{"kind": "bpe", "merges": [3], "special_tokens": []}', "is no whole bpe tokenizer"),
        ('{"kind": "bpe", "merges": ["ab"], "special_tokens": []}', "'ab' is no merge"),
    ],
)
def test_a_file_that_is_no_tokenizer(content: str, complaint: str, tmp_path: Path):
    file = tmp_path / "tokenizer.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=complaint):
        load_tokenizer(file)


def test_saving_replaces_the_file_as_a_whole(tmp_path: Path):
    file = tmp_path / "tokenizer.json"
    CharTokenizer("abc").save(file)
    CharTokenizer("日本").save(str(file))
    assert load_tokenizer(file).decode([0, 1]) == "日本"
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
