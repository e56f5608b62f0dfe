"""Models, vocabularies and corpora by name: fetched from several sources, verified by hash, kept in a cache."""

from cutaway.assets.asset import Asset, File
from cutaway.assets.cache import cache_dir
from cutaway.assets.catalogue import CATALOGUE, STAND_INS
from cutaway.assets.hub_folder import HUB_DOCUMENTS
from cutaway.assets.probe import SourceAnswer, sources_answering
from cutaway.assets.retrieval import AssetError, AssetStatus, FileStatus, fetch, locate, status, status_of, verify

__all__ = [
    "CATALOGUE",
    "STAND_INS",
    "HUB_DOCUMENTS",
    "Asset",
    "File",
    "fetch",
    "locate",
    "verify",
    "status",
    "status_of",
    "AssetStatus",
    "FileStatus",
    "sources_answering",
    "SourceAnswer",
    "cache_dir",
    "AssetError",
]
