"""A folder that tests of reading and of refusing begin with."""

from pathlib import Path

import pytest

from hugging_face_models import make_theirs, saved


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A GPT-2 as the library saves it."""
    return saved(make_theirs("gpt2"), tmp_path / "gpt2")
