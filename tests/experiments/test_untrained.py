"""Every experiment on models that were trained for one step: what fails is a check, and the figures are there to show why."""

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cutaway import experiments
from cutaway.experiments.frame import reproduce


def stopped_at_once(config: Any) -> Any:
    """Return a configuration, and those in it, with one step in place of all; the same where it has none."""
    changed = {
        each.name: 1 if each.name == "n_steps" else stopped_at_once(getattr(config, each.name))
        for each in fields(config)
        if each.name == "n_steps" or is_dataclass(getattr(config, each.name))
    }
    return replace(config, **changed)


CONFIGS = {name: experiments.experiment(name).scale("reduced").config for name in experiments.NAMES}
TRAINED = [name for name, config in CONFIGS.items() if stopped_at_once(config) != config]


def test_most_experiments_can_be_stopped_at_once() -> None:
    assert set(CONFIGS) - set(TRAINED) == {"smollm2-induction", "residual-norms"}  # their model is trained elsewhere


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_what_fails_is_a_check(name: str, tmp_path: Path) -> None:
    result = reproduce(experiments.experiment(name), config=stopped_at_once(CONFIGS[name]), folder=tmp_path)
    assert result.outcomes[0].checks
    assert not result.passed
    result.write(tmp_path)
