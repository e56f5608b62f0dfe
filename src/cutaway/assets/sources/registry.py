"""The Python package registry as the user configured it for pip."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from cutaway.assets.sources.base import SourceError
from cutaway.assets.sources.url import CONNECT_S, READ_S, connection_failure

if TYPE_CHECKING:
    import pypi_simple
    import requests

__all__ = ["Package", "Registry", "pip_command", "pip_environment", "local_path"]

_CONFIG_LIMIT_S = 60
_SETTING = re.compile(r"(?P<section>:env:|[\w-]+)\.(?P<key>[\w-]+)=(?P<value>.+)")


@dataclass(frozen=True)
class Package:
    """One file of the registry, a wheel or a source archive: the project, its version, the file's sha256 and bytes."""

    name: str
    version: str
    sha256: str
    n_bytes: int

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


def pip_command(*arguments: str) -> list[str]:
    """Return the command that runs this Python's pip, with no module taken from the folder it runs in."""
    return [sys.executable, "-P", "-m", "pip", *arguments]


def pip_environment() -> dict[str, str]:
    """Return the environment for pip: the user's, without the settings that would move or constrain a download."""
    dropped = {"PIP_TARGET", "PIP_USER", "PIP_CONSTRAINT"}
    return {name: value for name, value in os.environ.items() if name not in dropped}


@dataclass(frozen=True)
class Registry:
    """The indexes that pip would ask, in order, and how it would reach them."""

    indexes: tuple[str, ...]
    certificates: str | None = None
    proxy: str | None = None

    @classmethod
    def configured(cls) -> Registry:
        """Return the registry of the user's pip configuration; without one, the public index that pypi-simple knows.

        Raises SourceError when pip does not run or is told to use no index.
        """
        from pypi_simple import PYPI_SIMPLE_ENDPOINT

        settings = _pip_settings()
        if settings.get("no-index", "").lower() in {"1", "true", "yes", "on", "t", "y"}:
            raise SourceError("pip is configured to use no index")
        extra = settings.get("extra-index-url", "").split()
        return cls(
            indexes=(settings.get("index-url", PYPI_SIMPLE_ENDPOINT), *extra),
            certificates=settings.get("cert"),
            proxy=settings.get("proxy"),
        )

    def session(self) -> requests.Session:
        """Return a session that trusts and passes through what pip would."""
        import requests

        session = requests.Session()
        if self.certificates:
            session.verify = self.certificates
        if self.proxy:
            session.proxies = {"http": self.proxy, "https": self.proxy}
        return session

    def source_archive(self, package: Package) -> pypi_simple.DistributionPackage:
        """Find the package's source archive in the indexes; raises SourceError with what each index said."""
        said = []
        for index in self.indexes:
            try:
                page = self._page(index, package.name, read_s=READ_S)
            except SourceError as error:
                said.append(str(error))
                continue
            for file in page.packages:
                if file.package_type == "sdist" and file.version == package.version:
                    return file
            said.append(f"{_host(index)} has no source archive of it")
        raise SourceError("; ".join(said))

    def probe(self, project: str) -> None:
        """Ask the indexes for a project's page; raises SourceError when none answers."""
        said = []
        for index in self.indexes:
            try:
                self._page(index, project, read_s=CONNECT_S)
            except SourceError as error:
                said.append(str(error))
            else:
                return
        raise SourceError("; ".join(said))

    def _page(self, index: str, project: str, *, read_s: float) -> pypi_simple.ProjectPage:
        import requests
        from pypi_simple import NoSuchProjectError, ProjectPage, PyPISimple, UnsupportedRepoVersionError

        if (folder := local_path(index)) is not None:
            try:
                html = (folder / project / "index.html").read_text(encoding="utf-8")
            except OSError as error:
                raise SourceError(f"{_host(index)} does not have it") from error
            return ProjectPage.from_html(project, html, base_url=f"{index.rstrip('/')}/{project}/")
        try:
            with PyPISimple(index, session=self.session()) as client:
                return client.get_project_page(project, timeout=(CONNECT_S, read_s))
        except NoSuchProjectError as error:
            raise SourceError(f"{_host(index)} does not have it") from error
        except requests.RequestException as error:
            raise SourceError(f"{_host(index)}: {connection_failure(error)}") from error
        except (ValueError, UnsupportedRepoVersionError) as error:  # a page in a form the client does not know
            raise SourceError(f"{_host(index)} answers with no package page ({type(error).__name__})") from error


def local_path(address: str) -> Path | None:
    """Return the path of a `file:` address, None for any other."""
    parts = urlsplit(address)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _host(index: str) -> str:
    """Name an index without the user name and password it may carry."""
    return urlsplit(index).hostname or index


def _pip_settings() -> dict[str, str]:
    """Return pip's settings for `pip download`: its environment before its own section before the global one."""
    try:
        listed = subprocess.run(
            pip_command("config", "list"),
            env=pip_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_CONFIG_LIMIT_S,
            check=True,
        ).stdout
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise SourceError("pip does not run in this Python: install it with `python -m ensurepip`") from error
    sections: dict[str, dict[str, str]] = {"global": {}, "download": {}, ":env:": {}}
    for match in filter(None, map(_SETTING.fullmatch, listed.splitlines())):
        value = str(ast.literal_eval(match["value"]))
        if match["section"] in sections and value:  # to pip an empty setting is none
            sections[match["section"]][match["key"]] = value
    return sections["global"] | sections["download"] | sections[":env:"]
