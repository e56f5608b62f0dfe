"""Models, vocabularies and corpora by name: fetched from several sources, verified by hash, kept in a cache."""

from cutaway.assets.asset import Asset, File
from cutaway.assets.cache import cache_dir
from cutaway.assets.catalogue import CATALOGUE
from cutaway.assets.probe import SourceAnswer, sources_answering
from cutaway.assets.retrieval import AssetError, AssetStatus, fetch, locate, status, verify

__all__ = [
    "CATALOGUE",
    "Asset",
    "File",
    "fetch",
    "locate",
    "verify",
    "status",
    "AssetStatus",
    "sources_answering",
    "SourceAnswer",
    "cache_dir",
    "AssetError",
]
