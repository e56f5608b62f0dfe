"""Tokenizers: text to ids and back, by characters, by words, by byte pairs from scratch, and by byte pairs at full speed."""

from cutaway.tokenizers.absent import NoTokenizer
from cutaway.tokenizers.base import END_OF_TEXT, StreamDecoder, Tokenizer, tokenizer_hash
from cutaway.tokenizers.bpe import BPETokenizer, learn_merges
from cutaway.tokenizers.byte_level import CL100K_PATTERN, GPT2_PATTERN, from_letters, to_letters
from cutaway.tokenizers.byte_pair import BytePairTokenizer
from cutaway.tokenizers.char import CharTokenizer
from cutaway.tokenizers.gguf_tokenizer import tokenizer_from_gguf_fields
from cutaway.tokenizers.hugging_face import read_tokenizer_folder, write_tokenizer_json
from cutaway.tokenizers.loading import NAMED_TOKENIZERS, load_tokenizer
from cutaway.tokenizers.pairs import PairIndex, merge
from cutaway.tokenizers.splits import LLAMA3_PATTERN, QWEN2_PATTERN, SMOLLM_PATTERN
from cutaway.tokenizers.word import WordTokenizer

__all__ = [
    "Tokenizer",
    "CharTokenizer",
    "WordTokenizer",
    "BPETokenizer",
    "BytePairTokenizer",
    "NoTokenizer",
    "StreamDecoder",
    "NAMED_TOKENIZERS",
    "load_tokenizer",
    "read_tokenizer_folder",
    "write_tokenizer_json",
    "tokenizer_from_gguf_fields",
    "tokenizer_hash",
    "learn_merges",
    "merge",
    "PairIndex",
    "to_letters",
    "from_letters",
    "GPT2_PATTERN",
    "CL100K_PATTERN",
    "SMOLLM_PATTERN",
    "LLAMA3_PATTERN",
    "QWEN2_PATTERN",
    "END_OF_TEXT",
]
