"""Files of a model hub repository, held to the commit and the hash that the hub named at the first download."""

from __future__ import annotations

import hashlib
import socket
from dataclasses import dataclass
from pathlib import Path

from cutaway.assets.sources import url
from cutaway.assets.sources.base import Provenance, Request, Source, SourceError, check_sha256

__all__ = ["HubFile", "probe", "reason_of"]

_SHA256_LENGTH = 64


@dataclass(frozen=True)
class HubFile(Source):
    """One file of a hub repository: `main` becomes a commit at the first download, which is enforced from then on."""

    repo: str
    path: str

    def __str__(self) -> str:
        return f"hub {self.repo}/{self.path}"

    def write(self, target: Path, request: Request) -> Provenance:
        """Download the file at the enforced commit, or at the one `main` is now, and check it against the hub's hash."""
        from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url

        enforced = request.revisions.get(self.repo)
        try:
            facts = get_hf_file_metadata(hf_hub_url(self.repo, self.path, revision=enforced or "main"), timeout=url.CONNECT_S)
        except Exception as error:
            raise SourceError(f"the hub did not name the file ({reason_of(error)})") from error
        commit, digest, size = facts.commit_hash, facts.etag, facts.size
        if commit is None or digest is None or size is None:
            raise SourceError("the hub did not state the file's commit, hash and size")
        if enforced is not None and commit != enforced:
            raise SourceError(f"the hub answers with commit {commit}, not {enforced}")
        if request.n_bytes is not None and size != request.n_bytes:
            raise SourceError(f"it has {size:,} bytes where {request.n_bytes:,} are expected")
        url.download(
            hf_hub_url(self.repo, self.path, revision=commit),
            target,
            size=size,
            check=lambda path: _check_hub_hash(path, digest),
            report=request.report,
            label=target.stem,
            headers={"Authorization": f"Bearer {token}"} if (token := get_token()) else {},
        )
        return Provenance(source=str(self), repo=self.repo, revision=commit)


def probe() -> None:
    """Ask the hub whether it answers; raises SourceError when it does not."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise SourceError("HF_HUB_OFFLINE is set")
    url.probe(constants.ENDPOINT)


def _check_hub_hash(path: Path, digest: str) -> None:
    """The hub names large files by their sha256 and small ones by git's hash of a blob, a sha1 with the size before."""
    if len(digest) == _SHA256_LENGTH:
        return check_sha256(path, digest)
    content = path.read_bytes()
    found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    if found != digest:
        raise SourceError(f"its git hash is {found}, not {digest}")
    return None


def reason_of(error: Exception) -> str:
    """Return in a few words why the hub's client failed: it raises its transport's exceptions, which change with its version."""
    if any(isinstance(cause, socket.gaierror) for cause in url.causes_of(error)):
        return "its host name cannot be resolved; is this machine offline?"
    return next(iter(str(error).splitlines()), "") or type(error).__name__
