"""Activations of a corpus on disk: streamed there under a memory budget, read back as arrays and in random order."""

from cutaway.interp.store.collecting import Progress, collect
from cutaway.interp.store.contents import StoreContents, describe_store
from cutaway.interp.store.estimating import StoreEstimate, estimate
from cutaway.interp.store.plan import DTYPES
from cutaway.interp.store.reading import ActivationStore, StoredActivation, StoredTokens, open_store
from cutaway.interp.store.stream import Data

__all__ = [
    "collect",
    "estimate",
    "open_store",
    "describe_store",
    "ActivationStore",
    "StoredActivation",
    "StoredTokens",
    "StoreEstimate",
    "StoreContents",
    "Data",
    "Progress",
    "DTYPES",
]
