"""`cutaway doctor`: what this machine has, what is missing, and what that costs."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.text import Text

from cutaway.report import fields_table, format_bytes, is_unicode, print_json, print_sentence, stdout_console

if TYPE_CHECKING:
    import torch

__all__ = ["doctor", "examine", "advise"]

_PACKAGES = ("cutaway", "torch", "numpy", "safetensors", "tiktoken", "huggingface_hub", "tyro", "rich", "matplotlib")


def doctor(*, json: bool = False) -> None:
    """Say what this machine has: versions, device, memory, cache, which asset sources answer, a compiler.

    Where something is missing, it says what is lost without it. Nothing is changed; it takes a few seconds.

    Args:
        json: print JSON
    """
    findings = examine()
    if json:
        print_json(findings | {"advice": list(advise(findings))})
    else:
        _show(findings)


def examine() -> dict[str, Any]:
    """Return everything that was found out, as values that JSON can hold."""
    from cutaway.assets import sources_answering
    from cutaway.runtime import compiler

    with ThreadPoolExecutor(1) as pool:  # the network is slow to say no: meanwhile torch is imported and measured
        sources = pool.submit(sources_answering)
        return {
            "versions": _versions(),
            "device": _device(),
            "memory": _memory(),
            "compiler": compiler()._asdict(),
            "cache": _cache(),
            "sources": [asdict(answer) for answer in sources.result()],
        }


def advise(findings: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each thing that is missing: what is lost, and what to do."""
    compiler, device = findings["compiler"], findings["device"]
    if device["name"] == "cpu" and compiler["version"] is None:
        yield (
            f"no C++ compiler ({compiler['command']} was not found): training and decoding run uncompiled, and slower; "
            f"install {compiler['command']}, or set CXX to the name of another"
        )
    elif device["name"] == "cpu" and not compiler["has_python_headers"]:
        yield (
            "Python's headers are missing, so that torch.compile falls back: training and decoding run slower; install python3-dev"
        )
    if findings["cache"]["obstacle"]:
        yield findings["cache"]["obstacle"]
        return  # until then nothing can be fetched from anywhere
    answering = [answer for answer in findings["sources"] if answer["is_answering"]]
    if all(answer["source"] == "this Python" for answer in answering):
        yield "no source answers: only what the cache holds and the stdlib corpus can be used; check network and pip settings"
    elif absent := _out_of_reach(findings):
        instead = "; `cutaway train --data stdlib` learns from what is on every machine" if "tinyshakespeare" in absent else ""
        if instead and "shakespeare" not in absent:
            instead = "; `cutaway train --data shakespeare` learns from the plays instead"
        yield f"{', '.join(absent)} cannot be fetched here, as no source of it answers{instead}"
    if findings["cache"]["n_free_bytes"] < 1e9:
        yield f"little disk space is left for the cache in {findings['cache']['folder']}; CUTAWAY_CACHE moves it"


def _out_of_reach(findings: Mapping[str, Any]) -> list[str]:
    """Return the assets that the cache does not hold and that no answering source has."""
    at_hand = {name for answer in findings["sources"] if answer["is_answering"] for name in answer["assets"]}
    known = dict.fromkeys(name for answer in findings["sources"] for name in answer["assets"])
    return [name for name in known if name not in at_hand.union(findings["cache"]["assets"])]


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found | {"system": f"{platform.system()} {platform.release()} {platform.machine()}"}


def _device() -> dict[str, Any]:
    import torch

    from cutaway.runtime import describe_device, n_cores, pick_device

    device = pick_device()
    return {
        "name": device.type,
        "description": describe_device(device),
        "n_threads": torch.get_num_threads(),
        "n_cores": n_cores(),
        "bfloat16_speed": _bfloat16_speed(device),
    }


def _bfloat16_speed(device: torch.device) -> float | None:
    """Return how many times as fast a matrix product is in bfloat16 as in float32, None where the device has no bfloat16."""
    import torch

    try:
        return round(_product_time_s(torch.float32, device) / _product_time_s(torch.bfloat16, device), 1)
    except RuntimeError:
        return None


def _product_time_s(dtype: torch.dtype, device: torch.device) -> float:
    """Return the best of a few times of a small matrix product."""
    import torch

    matrix = torch.ones(768, 768, dtype=dtype, device=device)
    times_s = []
    for _ in range(5):
        start = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # waits for a GPU
        times_s.append(time.perf_counter() - start)
    return min(times_s)


def _memory() -> dict[str, int | None]:
    """Return the bytes of memory there are and are free, None where the system does not say."""
    from cutaway.runtime import free_memory_gib, pick_device, total_memory_gib

    def n_bytes(gib: float | None) -> int | None:
        return None if gib is None else round(gib * 2**30)

    cpu, device = pick_device("cpu"), pick_device()
    found = {"n_bytes": n_bytes(total_memory_gib(cpu)), "n_free_bytes": n_bytes(free_memory_gib(cpu))}
    if device.type == "cuda":
        found |= {"n_device_bytes": n_bytes(total_memory_gib(device)), "n_free_device_bytes": n_bytes(free_memory_gib(device))}
    return found


def _cache() -> dict[str, Any]:
    """Return where the cache is, what it holds, and how much room it has, or why it cannot be used."""
    from cutaway.assets import CATALOGUE, cache_dir, locate
    from cutaway.assets.retrieval import cache_obstacle

    folder = cache_dir()
    found = {"folder": str(folder), "n_bytes": 0, "n_free_bytes": None, "assets": [], "obstacle": cache_obstacle()}
    if found["obstacle"]:
        return found
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return found | {
        "n_bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        "n_free_bytes": shutil.disk_usage(existing).free,
        "assets": [name for name in CATALOGUE if locate(name)],
    }


def _show(findings: Mapping[str, Any]) -> None:
    console = stdout_console()
    yes, no = ("✓", "✗") if is_unicode(console) else ("yes", "no")
    versions = {name: each or "not installed" for name, each in findings["versions"].items()}
    sources = {
        f"{yes if answer['is_answering'] else no} {answer['source']}": _source_line(answer) for answer in findings["sources"]
    }
    sections: dict[str, Mapping[str, object]] = {
        "Versions": versions,
        "Machine": _machine_lines(findings),
        "Sources of assets": sources,
    }
    for title, lines in sections.items():
        console.print(Text(title, style="bold"))
        console.print(Padding(fields_table(lines), (0, 0, 1, 2)))
    advice = list(advise(findings))
    for sentence in advice:
        print_sentence(console, Text.assemble(("! ", "bold yellow"), sentence))
    if not advice:
        console.print(Text("All that is needed is here.", style="green"))


def _machine_lines(findings: Mapping[str, Any]) -> dict[str, str]:
    device, memory, compiler, cache = (findings[name] for name in ("device", "memory", "compiler", "cache"))
    speed = device["bfloat16_speed"]
    room = f"{format_bytes(cache['n_bytes'])}; {format_bytes(cache['n_free_bytes'])} free there"
    headers = "" if compiler["has_python_headers"] else ", but Python's headers are missing"
    lines = {
        "device": device["description"],
        "cores": f"{device['n_cores']}, torch uses {device['n_threads']} threads",
        "memory": f"{format_bytes(memory['n_bytes'])}, {format_bytes(memory['n_free_bytes'])} free",
    }
    if "n_device_bytes" in memory:
        lines["GPU memory"] = f"{format_bytes(memory['n_device_bytes'])}, {format_bytes(memory['n_free_device_bytes'])} free"
    return lines | {
        "bfloat16": f"{speed} times the speed of float32, measured just now" if speed else "not on this device",
        "C++ compiler": (compiler["version"] or f"none: {compiler['command']} was not found") + headers,
        "cache": f"{cache['folder']}, {'cannot be used' if cache['obstacle'] else room}",
    }


def _source_line(answer: Mapping[str, Any]) -> Text:
    assets = ", ".join(dict.fromkeys(answer["assets"])) or "-"
    if answer["is_answering"]:
        return Text(assets)
    return Text.assemble((f"{answer['why_not']}", "yellow"), (f" ({assets})" if answer["assets"] else "", "dim"))
