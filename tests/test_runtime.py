"""The machine's services: devices, generators, and files that are whole or absent."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from cutaway.runtime import (
    atomic_path,
    atomic_write,
    check_folder,
    compile_obstacle,
    compiler,
    describe_device,
    did_you_mean,
    free_memory_gib,
    peak_memory_gib,
    pick_device,
    remove_path,
    seeded_generator,
    total_memory_gib,
)


def test_the_cpu_is_on_every_machine() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto") == pick_device()


@pytest.mark.parametrize(
    ("has_cuda", "has_mps", "best"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_fastest_device_is_picked(monkeypatch: pytest.MonkeyPatch, has_cuda: bool, has_mps: bool, best: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has_mps)
    assert pick_device().type == best


def test_a_device_that_is_absent_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"'cuda' is not on this machine, which has cpu$"):
        pick_device("cuda")
    with pytest.raises(ValueError, match=r"'gpu' is not a device; this machine has cpu$"):
        pick_device("gpu")
    with pytest.raises(ValueError, match="'meta' is not on this machine"):
        pick_device("meta")


def test_a_gpu_beyond_the_last_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ValueError, match=r"'cuda:2' is not on this machine, which has 2"):
        pick_device("cuda:2")


@pytest.mark.parametrize(("n_threads", "said"), [(1, "1 thread"), (3, "3 threads")])
def test_the_cpu_is_described(monkeypatch: pytest.MonkeyPatch, n_threads: int, said: str) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    assert describe_device(torch.device("cpu")) == f"CPU, {said}"


def test_peak_memory_is_this_process() -> None:
    before = peak_memory_gib(torch.device("cpu"))
    block = torch.ones(2**28)  # 1 GiB of float32, touched
    after = peak_memory_gib(torch.device("cpu"))
    assert block.sum() > 0
    # the peak may have been higher before, so there is an upper bound on the growth, and the peak itself is at least the block
    assert max(1.0, before) <= after <= before + 1.1


def test_the_compiler_is_the_one_that_torch_would_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    for name in ("clang++", "c++", "my-c++", "broken-c++"):
        (tmp_path / name).write_text("#!/bin/sh\necho " + ("some compiler 1.0" if name != "broken-c++" else "; exit 1") + "\n")
        (tmp_path / name).chmod(0o755)
    assert compiler()[:2] == ("g++", None)  # torch would not look at clang++ either
    assert "there is no C++ compiler here" in str(compile_obstacle(cpu))
    for name, version in (("my-c++", "some compiler 1.0"), ("absent-c++", None), ("broken-c++", None), ("", None)):
        monkeypatch.setenv("CXX", name)
        assert compiler()[:2] == (name, version)
    monkeypatch.setenv("CXX", "clang++")
    monkeypatch.setattr(sysconfig, "get_path", lambda *_, **__: str(tmp_path))
    assert str(compile_obstacle(cpu)).startswith("Python's headers, with which a compiled step is built, are not here")
    (tmp_path / "Python.h").touch()
    assert compile_obstacle(cpu) is None


def test_torch_looks_for_the_compiler_where_we_do() -> None:
    from torch._inductor import config

    assert config.cpp.cxx[-1] == compiler().command


def test_memory_is_told_of_the_whole_machine() -> None:
    cpu = torch.device("cpu")
    free, total = free_memory_gib(cpu), total_memory_gib(cpu)
    if free is None or total is None:
        pytest.skip("this system does not tell its memory")
    assert 0 < free < total


def test_a_seeded_generator_is_its_own() -> None:
    state = torch.get_rng_state()
    first, second = (torch.rand(3, generator=seeded_generator(7)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, torch.rand(3, generator=seeded_generator(8)))
    assert torch.equal(torch.get_rng_state(), state)
    for seed in (-(2**63), 2**64 - 1):  # what torch takes
        seeded_generator(seed)
    for seed in (-(2**63) - 1, 2**64):
        with pytest.raises(ValueError, match=f"seed is {seed}; expected a whole number of 64 bits"):
            seeded_generator(seed)


# --- files


def test_a_file_is_written(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "file"
    atomic_write(path, "text: é\n")
    assert path.read_bytes() == "text: é\n".encode()
    atomic_write(path, b"\0bytes")
    assert path.read_bytes() == b"\0bytes"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "step") as temporary:
        (temporary / "inner").mkdir(parents=True)
        (temporary / "inner" / "file").write_text("x")
        assert not (tmp_path / "step").exists()
    assert (tmp_path / "step" / "inner" / "file").read_text() == "x"
    assert list(tmp_path.iterdir()) == [tmp_path / "step"]


class Interrupted(BaseException):
    """Stands for Ctrl-C, which is no Exception either."""


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_failure_leaves_what_was_there(tmp_path: Path, is_folder: bool) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write_a_part() -> None:
        with atomic_path(path) as temporary:
            if is_folder:
                temporary.mkdir()
            (temporary / "part" if is_folder else temporary).write_text("ne")
            raise Interrupted

    with pytest.raises(Interrupted):
        write_a_part()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    code = f"""
import resource, signal
from pathlib import Path
from cutaway.runtime import atomic_write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    atomic_write(Path({str(path)!r}), "x" * 5000)
except OSError as error:
    print("OSError", error.errno)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.startswith("OSError"), done.stdout + done.stderr
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_says_which_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device") as caught, atomic_path(tmp_path / "mine.json"):
        raise OSError(28, "No space left on device")  # as the system says it of a write
    assert caught.value.filename == str(tmp_path / "mine.json")
    with pytest.raises(FileNotFoundError) as missing, atomic_path(tmp_path / "mine.json"):
        Path("absent").read_text()
    assert missing.value.filename == "absent"
    with pytest.raises(OSError, match="No space left on device") as named, atomic_path(tmp_path / "mine.json") as temporary:
        raise OSError(28, "No space left on device", str(temporary))
    assert named.value.filename == str(tmp_path / "mine.json")


def test_a_write_that_fails_leaves_no_folder_that_was_made_for_it(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for folder in (tmp_path / "old", tmp_path / "new" / "newer"):
        with pytest.raises(OSError, match="No space left on device"), atomic_path(folder / "mine.json"):
            raise OSError(28, "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_failed_rename_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def refuse(self: Path, target: Path) -> Path:
        raise OSError("no")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="no"):
        atomic_write(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_on_the_disk_before_the_name_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr("cutaway.runtime.os.fsync", lambda descriptor: events.append("fsync"))
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda self, target: (events.append("rename"), rename(self, target))[1])
    atomic_write(tmp_path / "file", "new")
    assert events == ["fsync", "rename", "fsync"]  # the content, the name, the folder that has the name


def test_remains_of_a_run_that_was_killed_are_no_obstacle(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "step") as temporary:
        name = temporary.name
        temporary.mkdir()
    (tmp_path / name).mkdir()
    (tmp_path / name / "left over").write_text("x")
    atomic_write(tmp_path / "step 2", "unrelated")
    with atomic_path(tmp_path / "step") as temporary:
        assert not temporary.exists()
        temporary.mkdir()
    assert list((tmp_path / "step").iterdir()) == []


def test_a_folder_is_removed_and_what_a_link_points_to_stays(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("x")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "kept", target_is_directory=True)
    (folder / "file").write_text("x")
    remove_path(folder)
    remove_path(folder)  # nothing there: nothing happens
    assert not folder.exists()
    assert (tmp_path / "kept" / "file").read_text() == "x"


def test_the_nearest_name_is_asked_about() -> None:
    assert did_you_mean("GPT2", ["gpt2", "gpt2-xl"]) == "did you mean 'gpt2'? "
    assert did_you_mean("mine", ["gpt2", "gpt2-xl"]) == ""


def test_a_folder_is_checked_before_it_is_written_into(tmp_path: Path) -> None:
    check_folder(tmp_path / "new", "the graph", {"graph.json"})
    (tmp_path / "graph.json").touch()
    (tmp_path / ".graph.json.123.tmp").touch()  # which a process that was killed leaves
    check_folder(tmp_path, "the graph", {"graph.json"})
    with pytest.raises(ValueError, match=r"holds other things \(graph.json\): give a folder of its own to the lens"):
        check_folder(tmp_path, "the lens", {"lens.json"})
    with pytest.raises(ValueError, match=r"graph.json is a file: give a folder to write the lens into"):
        check_folder(tmp_path / "graph.json", "the lens", {"lens.json"})
