"""Tokenizers: text to ids and back, by characters, by byte pairs from scratch, and by byte pairs at full speed."""

from cutaway.tokenizers.base import END_OF_TEXT, StreamDecoder, Tokenizer, tokenizer_hash
from cutaway.tokenizers.bpe import BPETokenizer, learn_merges
from cutaway.tokenizers.byte_level import CL100K_PATTERN, GPT2_PATTERN, from_letters, to_letters
from cutaway.tokenizers.byte_pair import BytePairTokenizer
from cutaway.tokenizers.char import CharTokenizer
from cutaway.tokenizers.loading import load_tokenizer
from cutaway.tokenizers.pairs import PairIndex, merge

__all__ = [
    "Tokenizer",
    "CharTokenizer",
    "BPETokenizer",
    "BytePairTokenizer",
    "StreamDecoder",
    "load_tokenizer",
    "tokenizer_hash",
    "learn_merges",
    "merge",
    "PairIndex",
    "to_letters",
    "from_letters",
    "GPT2_PATTERN",
    "CL100K_PATTERN",
    "END_OF_TEXT",
]
