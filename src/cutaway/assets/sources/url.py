"""Files at a URL: an interrupted download goes on where it stopped, and only a verified one counts."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cutaway.assets.sources.base import Provenance, Report, Request, Source, SourceError, check_sha256

if TYPE_CHECKING:
    import requests

__all__ = ["Url", "download", "probe", "connection_failure", "causes_of", "CONNECT_S", "READ_S"]

CONNECT_S, READ_S = 3.0, 30.0
"""Seconds to wait for a connection, and for the next bytes: an offline machine should hear so at once."""

_CHUNK = 1 << 16


@dataclass(frozen=True)
class Url(Source):
    """A file at an address."""

    address: str

    def __str__(self) -> str:
        return f"URL {self.address}"

    def write(self, target: Path, request: Request) -> Provenance:
        """Download the address to `target`, from where an earlier attempt stopped."""
        size, sha256 = request.pinned()
        download(
            self.address,
            target,
            size=size,
            check=lambda path: check_sha256(path, sha256),
            report=request.report,
            label=target.stem,
        )
        return Provenance(source=str(self))


def download(
    address: str,
    target: Path,
    *,
    size: int,
    check: Callable[[Path], None],
    report: Report,
    label: str,
    session: requests.Session | None = None,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Download `size` bytes to `target`, which `check` then accepts or refuses by raising SourceError.

    What is already in `target` is kept and only the rest asked for. A connection that breaks is taken up again as long
    as bytes arrive, and after the last failure what has come stays for the next call. A refused file is removed, and
    asked for once more when a part of it was old. Raises SourceError, and OSError when the disk fails.
    """
    import requests

    session = session or requests.Session()
    was_begun = target.exists()
    while True:
        _complete(session, address, target, size=size, report=report, label=label, headers=headers or {})
        try:
            return check(target)
        except SourceError:
            target.unlink()
            if not was_begun:
                raise
            was_begun = False


def _complete(
    session: requests.Session,
    address: str,
    target: Path,
    *,
    size: int,
    report: Report,
    label: str,
    headers: Mapping[str, str],
) -> None:
    """Ask for what is missing until `target` has its size, as long as each answer brings some."""
    import requests

    if _n_bytes(target) > size:
        target.unlink()
    while (n_before := _n_bytes(target)) < size:
        failure = "it ended too soon"
        try:
            with _open(session, address, n_before, headers) as response:
                _append(response, target, size=size, report=report, label=label)
        except requests.RequestException as error:
            failure = connection_failure(error)
        except SourceError:
            target.unlink(missing_ok=True)
            raise
        if (n_now := _n_bytes(target)) == 0:
            target.unlink(missing_ok=True)
            raise SourceError(failure)
        if n_now <= n_before:
            raise SourceError(f"{failure}, after {n_now:,} of {size:,} bytes")
    report(size, size, label)


def _open(session: requests.Session, address: str, n_before: int, headers: Mapping[str, str]) -> requests.Response:
    """Ask for the bytes after the first `n_before`; the answer is all of them (200) or the rest (206)."""
    import requests

    # A compressed answer could not be taken up again in the middle.
    asked = {**headers, "Accept-Encoding": "identity"} | ({"Range": f"bytes={n_before}-"} if n_before else {})
    response = session.get(address, headers=asked, stream=True, timeout=(CONNECT_S, READ_S))
    if response.status_code == requests.codes.requested_range_not_satisfiable:
        raise SourceError("it is shorter than the part already here")
    response.raise_for_status()
    is_partial = response.status_code == requests.codes.partial
    if is_partial and not response.headers.get("Content-Range", "").startswith(f"bytes {n_before}-"):
        raise SourceError(f"it answers with other bytes than those asked for ({response.headers.get('Content-Range')})")
    return response


def _append(response: requests.Response, target: Path, *, size: int, report: Report, label: str) -> None:
    import requests

    with target.open("ab" if response.status_code == requests.codes.partial else "wb") as file:
        n_done = file.tell()
        for chunk in response.iter_content(_CHUNK):
            n_done += len(chunk)
            if n_done > size:
                raise SourceError(f"it has more than the {size:,} bytes expected")
            file.write(chunk)
            report(n_done, size, label)


def _n_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def probe(address: str, *, session: requests.Session | None = None) -> None:
    """Ask the host of an address whether it answers, within seconds; raises SourceError when it does not."""
    import requests

    parts = urlsplit(address)
    try:
        answer = (session or requests.Session()).head(f"{parts.scheme}://{parts.netloc}/", timeout=(CONNECT_S, CONNECT_S))
    except requests.RequestException as error:
        raise SourceError(connection_failure(error)) from error
    if answer.status_code >= requests.codes.server_error:
        raise SourceError(f"HTTP {answer.status_code}")


def connection_failure(error: requests.RequestException) -> str:
    """Return in a few words what stopped a request: the library's own text runs over several lines."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP {error.response.status_code} {error.response.reason}".rstrip()
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {CONNECT_S:g} s"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy does not let it through"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not accepted"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke"
    causes = list(causes_of(error))
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return "its host name cannot be resolved (is this machine offline?)"
    said = next((cause.strerror for cause in reversed(causes) if isinstance(cause, OSError) and cause.strerror), None)
    return f"no connection ({said})" if said else f"the connection failed ({type(error).__name__})"


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it came from, back to the first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
