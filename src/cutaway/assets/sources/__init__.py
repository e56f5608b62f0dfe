"""The places files come from: a hub repository, a URL, a wheel or a source archive of the registry, this Python."""

from cutaway.assets.sources.base import Provenance, Report, Request, Source, SourceError, check_sha256
from cutaway.assets.sources.hub import HubFile
from cutaway.assets.sources.registry import Package, Registry
from cutaway.assets.sources.sdist import SdistMembers
from cutaway.assets.sources.standard_library import StandardLibrary
from cutaway.assets.sources.url import Url
from cutaway.assets.sources.wheel import WheelMember

__all__ = [
    "Source",
    "SourceError",
    "Request",
    "Provenance",
    "Report",
    "check_sha256",
    "HubFile",
    "Url",
    "Package",
    "Registry",
    "WheelMember",
    "SdistMembers",
    "StandardLibrary",
]
