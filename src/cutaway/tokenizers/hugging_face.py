"""Tokenizers in Hugging Face's files: `tokenizer.json`, or `vocab.json` with `merges.txt`; byte-level byte pairs alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cutaway.runtime import atomic_write
from cutaway.tokenizers.base import END_OF_TEXT, Tokenizer
from cutaway.tokenizers.bpe import BPETokenizer
from cutaway.tokenizers.byte_level import BYTES, GPT2_PATTERN, to_letters
from cutaway.tokenizers.byte_pair import BytePairTokenizer
from cutaway.tokenizers.char import CharTokenizer
from cutaway.tokenizers.merge_order import LetterPair, merges_of, order_of_making
from cutaway.tokenizers.splits import pattern_of_pre_tokenizer, pre_tokenizer_of
from cutaway.values import read_object

__all__ = ["read_tokenizer_folder", "write_tokenizer_json"]

_CHARACTERS_APART = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
"""How a vocabulary of characters is written: every character is a word."""

_ENDS = ("bos_token", "eos_token")


def read_tokenizer_folder(folder: str | Path) -> Tokenizer:
    """Return the tokenizer of a model's folder: of `tokenizer.json`, else of `vocab.json`, `merges.txt` and `added_tokens.json`.

    Which tokens begin and end a text stands in `tokenizer_config.json`, `special_tokens_map.json` or `config.json`.
    Raises ValueError naming the file for a folder without these, for damage, and for what is not byte-level byte pairs.
    """
    folder = Path(folder)
    settings = _read_settings(folder)
    if (file := folder / "tokenizer.json").is_file():
        with _errors_of(file):
            return _from_tokenizer_json(read_object(file), settings)
    if (file := folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        with _errors_of(file):
            return _from_vocabulary_and_merges(folder, settings)
    raise ValueError(
        f"{folder} has no tokenizer that can be read: expected tokenizer.json, or vocab.json and merges.txt "
        "(SentencePiece's tokenizer.model is not supported)"
    )


def write_tokenizer_json(tokenizer: Tokenizer, folder: str | Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, with which Hugging Face's libraries give every text the same ids.

    Raises ValueError for a tokenizer that their format cannot hold exactly.
    """
    folder = Path(folder)
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    config |= {name: token for name in ("bos_token", "eos_token") if (token := getattr(tokenizer, name)) is not None}
    config |= {"add_bos_token": True} if tokenizer.adds_bos else {}
    if not isinstance(tokenizer, CharTokenizer | BPETokenizer | BytePairTokenizer):
        raise ValueError(f"a {tokenizer.kind} tokenizer has no form in tokenizer.json; expected char, bpe or byte_pair")  # noqa: TRY004
    content = _as_tokenizer_json(tokenizer)
    atomic_write(folder / "tokenizer.json", json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    atomic_write(folder / "tokenizer_config.json", json.dumps(config, ensure_ascii=False, indent=2) + "\n")


class _Settings(NamedTuple):
    """What the files beside a vocabulary say."""

    ends: dict[str, str | None]
    """`bos_token` and `eos_token` by name, each where a file tells it."""
    end_ids: dict[str, int | None]
    """The same by id, from `config.json`."""
    adds_bos: bool | None
    added_tokens: list[dict[str, Any]]


def _read_settings(folder: Path) -> _Settings:
    ends: dict[str, str | None] = {}
    model, config = (_read_if_there(folder / name) for name in ("config.json", "tokenizer_config.json"))
    for file in (folder / "special_tokens_map.json", folder / "tokenizer_config.json"):
        with _errors_of(file):
            ends |= {name: _content(token) for name, token in _read_if_there(file).items() if name in _ENDS}
    with _errors_of(folder / "tokenizer_config.json"):
        _refuse_if_set(config, "add_eos_token", "an end put after every text")
        _refuse_if_set(config, "add_prefix_space", "a blank put before every text")
        added = [{**token, "id": int(token_id)} for token_id, token in config.get("added_tokens_decoder", {}).items()]
    return _Settings(ends, {name: _first(model.get(f"{name}_id")) for name in _ENDS}, config.get("add_bos_token"), added)


def _from_tokenizer_json(content: Mapping[str, Any], settings: _Settings) -> Tokenizer:
    model = content["model"]
    if content.get("normalizer") and content["normalizer"].get("normalizers") != []:
        raise ValueError(f"normalizer is {content['normalizer'].get('type')!r}; changing text before it is cut is not supported")
    if model.get("type") == "WordLevel" and content.get("pre_tokenizer") == _CHARACTERS_APART:
        return _characters(model["vocab"])
    if model.get("type", "BPE" if "merges" in model else None) != "BPE":  # old files have no type; their merges tell
        raise ValueError(f"model is {model.get('type')!r}; only byte-level BPE is supported")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        _refuse_if_set(model, name, "what byte-level BPE has not")
    added, special = _added_tokens(content.get("added_tokens") or ())
    adds_bos, first = _how_texts_begin(content.get("post_processor"))
    if settings.adds_bos is not None:
        adds_bos = settings.adds_bos
    elif adds_bos:
        settings.ends.setdefault("bos_token", first)
        if settings.ends["bos_token"] != first:
            raise ValueError(f"post_processor puts {first!r} before every text, and bos_token is {settings.ends['bos_token']!r}")
    return _tokenizer(
        model["vocab"],
        [_pair(merge) for merge in model["merges"]],
        settings._replace(adds_bos=adds_bos),
        pattern=pattern_of_pre_tokenizer(content.get("pre_tokenizer")),
        special=special,
        added=added,
        ignores_merges=bool(model.get("ignore_merges", False)),
    )


def _from_vocabulary_and_merges(folder: Path, settings: _Settings) -> Tokenizer:
    """Read GPT-2's form, of which the classes of GPT-2 and CodeGen say the rest: the cut, and that `<|endoftext|>` is special."""
    id_of = read_object(folder / "vocab.json")
    with _errors_of(folder / "merges.txt"):
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        merges = [_pair(line.rstrip("\r")) for line in lines if line.strip() and not line.startswith("#version")]
    added, special = _added_tokens(settings.added_tokens)
    more = _read_if_there(folder / "added_tokens.json")
    added |= {token: token_id for token, token_id in more.items() if token not in special}
    if END_OF_TEXT in id_of:
        special[END_OF_TEXT] = id_of[END_OF_TEXT]
        if settings.end_ids == dict.fromkeys(_ENDS):
            settings = settings._replace(ends={**dict.fromkeys(_ENDS, END_OF_TEXT), **settings.ends})
    return _tokenizer(id_of, merges, settings, pattern=GPT2_PATTERN, special=special, added=added)


def _tokenizer(
    id_of: Mapping[str, int],
    merges: list[LetterPair],
    settings: _Settings,
    *,
    pattern: str,
    special: dict[str, int],
    added: dict[str, int],
    ignores_merges: bool = False,
) -> BytePairTokenizer:
    """Find the tokens that begin and end a text, which are special even where the vocabulary does not say so."""
    known = {**id_of, **added, **special}
    token_with: dict[int | None, str] = {token_id: token for token, token_id in known.items()}
    ends = {name: settings.ends.get(name, token_with.get(settings.end_ids[name])) for name in _ENDS}
    for name, token in ends.items():
        if token is not None and token not in known:
            raise ValueError(f"{name} is {token!r}, which the vocabulary lacks; give it an id there, or name another")
        if token is not None and token not in added:
            special[token] = known[token]
    return BytePairTokenizer.from_merges(
        id_of,
        merges,
        pattern=pattern,
        special_tokens=special,
        added_tokens=added,
        ignores_merges=ignores_merges,
        **ends,
        adds_bos=bool(settings.adds_bos) and ends["bos_token"] is not None,
    )


def _added_tokens(tokens: Iterable[Mapping[str, Any]]) -> tuple[dict[str, int], dict[str, int]]:
    """Return the ids of ordinary and of special added tokens. Raises ValueError for one that takes in the text around it."""
    added: dict[str, int] = {}
    special: dict[str, int] = {}
    for token in tokens:
        for name in ("lstrip", "rstrip", "single_word"):
            _refuse_if_set(token, name, f"for the added token {token['content']!r}")
        (special if token.get("special", False) else added)[token["content"]] = token["id"]
    return added, special


def _how_texts_begin(processor: Mapping[str, Any] | None) -> tuple[bool, str | None]:
    """Return whether a token is put before every text, and which. Raises ValueError for anything else that is put there."""
    parts = (processor or {}).get("processors", [processor] if processor else [])
    others = [part for part in parts if part["type"] != "ByteLevel"]  # which tells only where tokens lie in the text
    match others:
        case []:
            return False, None
        case [{"type": "TemplateProcessing", "single": [{"Sequence": _}]}]:
            return False, None
        case [{"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": str(first)}}, {"Sequence": _}]}]:
            return True, first
    shown = ", ".join(str(part.get("single", part["type"])) for part in others)
    raise ValueError(f"post_processor is {shown}; expected nothing, or a template of one special token and the text")


def _pair(merge: str | list[str]) -> LetterPair:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if len(parts) != 2 or not all(parts):
        raise ValueError(f"{merge!r} is no merge; expected two tokens, such as 'Ġ t'")
    return parts[0], parts[1]


def _content(token: str | Mapping[str, Any] | None) -> str | None:
    return token["content"] if isinstance(token, Mapping) else token


def _first(token_id: int | list[int] | None) -> int | None:
    """Return an id of `config.json`, the first where several tokens end a text."""
    return next(iter(token_id), None) if isinstance(token_id, list) else token_id


def _characters(id_of: Mapping[str, int]) -> CharTokenizer:
    tokenizer = CharTokenizer("".join(id_of))
    if {character: tokenizer.encode(character) for character in tokenizer.characters} != {
        character: [token_id] for character, token_id in id_of.items()
    }:
        raise ValueError("model is WordLevel; only characters with ids in the order of their code points are supported")
    return tokenizer


def _refuse_if_set(told: Mapping[str, Any], name: str, what: str) -> None:
    if told.get(name):
        raise ValueError(f"{name} is {told[name]!r}, {what}, which is not supported")


def _read_if_there(file: Path) -> dict[str, Any]:
    return read_object(file) if file.is_file() else {}


@contextmanager
def _errors_of(file: Path) -> Iterator[None]:
    """Say in which file something is wrong, whatever it is."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error}); get the file again") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is damaged ({type(error).__name__}: {error}); get the file again") from error
    except ValueError as error:
        raise error if str(error).startswith(str(file.parent)) else ValueError(f"{file}: {error}") from error


def _as_tokenizer_json(tokenizer: CharTokenizer | BPETokenizer | BytePairTokenizer) -> dict[str, Any]:
    if isinstance(tokenizer, BPETokenizer | BytePairTokenizer):
        model, pattern = _byte_pair_model(tokenizer), getattr(tokenizer, "pattern", GPT2_PATTERN)
        pre_tokenizer, decoder = pre_tokenizer_of(pattern), pre_tokenizer_of(GPT2_PATTERN)  # as a decoder it has no more settings
    else:
        id_of = {character: tokenizer.encode(character)[0] for character in tokenizer.decode(range(tokenizer.d_vocab))}
        # As the unknown token has no id, a character that is not known is an error there too; Fuse puts no blanks between.
        model = {"type": "WordLevel", "vocab": id_of, "unk_token": "<unk>"}
        pre_tokenizer, decoder = _CHARACTERS_APART, {"type": "Fuse"}
    named = sorted({**tokenizer.added_tokens, **tokenizer.special_tokens}.items(), key=lambda item: item[1])
    settings = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": token_id, "content": token, **settings, "special": token in tokenizer.special_tokens}
            for token, token_id in named
        ],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": _template(tokenizer) if tokenizer.adds_bos else None,
        "decoder": decoder,
        "model": model,
    }


def _byte_pair_model(tokenizer: BPETokenizer | BytePairTokenizer) -> dict[str, Any]:
    """Write vocabulary and merges; the engine keeps no merges, so they are those that make its tokens in its order."""
    if isinstance(tokenizer, BPETokenizer):
        merges = [(to_letters(left), to_letters(right)) for left, right in tokenizer.merges]
        tokens = [to_letters(byte) for byte in BYTES] + [left + right for left, right in merges]
        id_of = {token: place for place, token in enumerate(tokens)}
        whole_words: list[str] = []
    else:
        tokens = [to_letters(token) for token in tokenizer.tokens]
        merges = merges_of(tokens)
        id_of = dict(zip(tokens, tokenizer.ids, strict=True))
        made = {left + right for left, right in merges}
        whole_words = [token for token in tokens if len(token) > 1 and token not in made]
        id_of |= {to_letters(token): token_id for token, token_id in tokenizer.unmade_tokens.items()}
        if whole_words:
            order_of_making(merges, whole_words=whole_words)  # which raises where they are more than whole words
            if tokenizer.unmade_tokens:
                raise ValueError("some tokens are whole words alone and some are never made; tokenizer.json has no way to say both")
    named = {**tokenizer.added_tokens, **tokenizer.special_tokens}
    if both := sorted(named.keys() & id_of.keys()):
        raise ValueError(f"the special token {both[0]!r} is written as an ordinary one is; tokenizer.json cannot hold both")
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": bool(whole_words),
        "vocab": dict(sorted({**id_of, **named}.items(), key=lambda item: item[1])),
        "merges": [f"{left} {right}" for left, right in merges],
    }


def _template(tokenizer: Tokenizer) -> dict[str, Any]:
    """Write that a text begins with `bos_token`."""
    begin = {"SpecialToken": {"id": tokenizer.bos_token, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [begin, first],
        "pair": [begin, first, begin, second],
        "special_tokens": {
            tokenizer.bos_token: {"id": tokenizer.bos_token, "ids": [tokenizer.bos], "tokens": [tokenizer.bos_token]}
        },
    }
