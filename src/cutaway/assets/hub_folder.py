"""A folder of a hub dataset, of whose files no more is fetched than is read, at a commit that stays the same."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cutaway.assets.retrieval import AssetError
from cutaway.assets.sources.hub import reason_of
from cutaway.assets.sources.url import CONNECT_S

if TYPE_CHECKING:
    from huggingface_hub import HfFileSystem

__all__ = ["HUB_DOCUMENTS", "HubFolder", "HubListing", "RemoteFile"]

_BLOCK_BYTES, _N_BLOCKS = 2**22, 4
_N_TRIES = 2
"""Each of them asks several times, with waits between, as the hub's client does."""
_WORTH_ANOTHER_TRY = {408, 429}


@dataclass(frozen=True)
class RemoteFile:
    """A file of a listing: its path in the folder, its size in bytes, and what the hub calls its content."""

    name: str
    n_bytes: int
    etag: str


@dataclass(frozen=True)
class HubListing:
    """The files of a folder at one commit, in the order of their names."""

    folder: HubFolder
    commit: str
    files: tuple[RemoteFile, ...]
    system: HfFileSystem

    def open(self, file: RemoteFile) -> io.BufferedReader:
        """Open a file, of which only the parts that are read are fetched, each as often as it takes.

        The hub's own hash is that of the whole file, so parts cannot be held against it: that they are right rests on the commit in
        their address, on the file's size, and on the checks of the format that is read. Raises AssetError where the hub stays silent.
        """
        path = f"datasets/{self.folder.repo}@{self.commit}/{self.folder.path}/{file.name}"

        def begin() -> Any:
            options = {"cache_type": "background", "cache_options": {"maxblocks": _N_BLOCKS}, "size": file.n_bytes}
            return self.system.open(path, "rb", block_size=_BLOCK_BYTES, **options)

        raw = _Steady(begin, file.n_bytes, what=f"{self.folder}/{file.name}")
        return io.BufferedReader(raw)


@dataclass(frozen=True)
class HubFolder:
    """A folder of a hub dataset."""

    repo: str
    path: str

    def __str__(self) -> str:
        return f"hub {self.repo}/{self.path}"

    def list(self, *, suffix: str, revision: str | None = None) -> HubListing:
        """Return the files with a suffix at a commit, or at the one that `main` is now.

        Raises AssetError where the hub does not answer, answers with another commit, or has none.
        """
        from huggingface_hub import HfApi, HfFileSystem, RepoFile, constants

        api = HfApi(endpoint=constants.ENDPOINT)
        try:
            commit = api.dataset_info(self.repo, revision=revision or "main", timeout=CONNECT_S).sha
            tree = list(api.list_repo_tree(self.repo, self.path, revision=commit, repo_type="dataset"))
        except Exception as error:
            raise AssetError(f"{self}: the hub did not name the files ({reason_of(error)})") from error
        if commit is None or revision not in (None, commit):
            raise AssetError(f"{self}: the hub answers with commit {commit}, not {revision}")
        found = [each for each in tree if isinstance(each, RepoFile) and each.path.endswith(suffix)]
        files = [
            RemoteFile(each.path.removeprefix(f"{self.path}/"), each.size, each.lfs.sha256 if each.lfs else each.blob_id)
            for each in sorted(found, key=lambda each: each.path)
        ]
        if not files:
            raise AssetError(f"{self}: at commit {commit} there is no file that ends with {suffix}")
        system = HfFileSystem(endpoint=constants.ENDPOINT, skip_instance_cache=True)
        return HubListing(self, commit, tuple(files), system)


HUB_DOCUMENTS = {"fineweb-edu": HubFolder("HuggingFaceFW/fineweb-edu", "sample/10BT")}
"""The documents that a hub gives by name: of FineWeb-Edu the sample of ten billion tokens."""


class _Steady(io.RawIOBase):
    """A file that is opened anew where reading it fails: what was fetched ahead and did not come stays broken in the old one."""

    def __init__(self, begin: Callable[[], Any], n_bytes: int, *, what: str) -> None:
        self._begin, self._n_bytes, self._what = begin, n_bytes, what
        self._place = 0
        self._file: Any = None  # of a kind that the hub's client has for itself

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, and return it."""
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._n_bytes}[whence]
        return self._place

    def tell(self) -> int:
        """Return the place."""
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read into a buffer, and return how many bytes; raises AssetError after the last attempt, or at once for a refusal."""
        n_bytes = min(len(buffer), self._n_bytes - self._place)
        for attempt in range(1, _N_TRIES + 1):
            try:
                content = self._read(n_bytes)
                break
            except Exception as error:  # the hub's client raises its transport's exceptions, which change with its version
                self._file = None
                status = getattr(getattr(error, "response", None), "status_code", None)
                is_refused = isinstance(status, int) and 400 <= status < 500 and status not in _WORTH_ANOTHER_TRY
                if attempt == _N_TRIES or is_refused:
                    raise AssetError(
                        f"{self._what} could not be read on at byte {self._place:,} ({reason_of(error)}): what is whole stays, and "
                        "the same command goes on"
                    ) from error
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)

    def _read(self, n_bytes: int) -> bytes:
        if n_bytes <= 0:
            return b""
        self._file = self._file or self._begin()
        self._file.seek(self._place)
        content: bytes = self._file.read(n_bytes)
        if not content:
            raise EOFError(f"it ended after {self._place:,} of {self._n_bytes:,} bytes")
        return content

    def close(self) -> None:
        """Let the connection go."""
        if self._file is not None:
            self._file.close()
        super().close()
