"""From text to batches of token ids."""

from cutaway.data.document_shards import DocumentShards
from cutaway.data.document_sources import open_documents
from cutaway.data.document_writing import write_document_shards
from cutaway.data.documents import DocumentSource
from cutaway.data.loader import Batch, Loader, cut_windows, validation_batches
from cutaway.data.obtaining import kept_in, obtain_shards
from cutaway.data.shard_loader import ShardLoader, ShardsError, View
from cutaway.data.shards import TokenArray, read_shard, read_shard_manifest, write_shard, write_shard_in_pieces
from cutaway.data.text import CORPORA, Corpus, read_corpus, stream_corpus
from cutaway.data.tokenized import split_tokens, tokenize_corpus, tokenize_source

__all__ = [
    "CORPORA",
    "Corpus",
    "read_corpus",
    "stream_corpus",
    "tokenize_corpus",
    "tokenize_source",
    "split_tokens",
    "DocumentSource",
    "open_documents",
    "DocumentShards",
    "write_document_shards",
    "obtain_shards",
    "kept_in",
    "TokenArray",
    "write_shard",
    "write_shard_in_pieces",
    "read_shard",
    "read_shard_manifest",
    "Batch",
    "Loader",
    "ShardLoader",
    "ShardsError",
    "View",
    "cut_windows",
    "validation_batches",
]
