"""What all results share: how they are printed, and what their JSON begins with."""

import json
from dataclasses import fields, is_dataclass
from importlib import import_module
from pkgutil import walk_packages

import torch

import cutaway.interp
from cutaway import residual
from cutaway.interp.result import Result
from cutaway.model import Transformer


def all_results() -> list[type[Result]]:
    for module in walk_packages(cutaway.interp.__path__, "cutaway.interp."):
        import_module(module.name)
    found, left = [], [Result]
    while left:
        subclasses = [each for each in left.pop().__subclasses__() if each.__module__.startswith("cutaway.")]
        found += subclasses
        left += subclasses
    return found


def test_no_result_prints_its_numbers() -> None:
    results = all_results()
    assert len(results) > 15
    assert all(is_dataclass(each) and fields(each) for each in results)
    assert [each.__name__ for each in results if each.__repr__ is not Result.__repr__] == []


def test_a_result_says_what_was_found(tiny_model: Transformer) -> None:
    found = residual.stream(tiny_model, torch.tensor([[1, 2, 3, 4]]))
    assert repr(found) == f"<Residual stream: {found.summary()}>"
    written = json.loads(found.to_json())
    assert list(written)[:2] == ["analysis", "source"]
    assert (written["analysis"], written["source"]) == (found.title, found.source)
    assert written | found.to_dict() == written
