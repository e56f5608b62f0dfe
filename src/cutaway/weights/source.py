"""A model as it lies on the disk, in whatever format, and how it becomes a Transformer: one tensor at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.model import Transformer
from cutaway.tokenizers import Tokenizer

__all__ = ["ModelSource", "StoredTensor", "assemble", "matching", "read_model", "parameter_shapes", "name_some", "located"]


class StoredTensor(NamedTuple):
    """What a file's header says of a tensor: its type, as the file names it, and its shape."""

    dtype: str
    shape: tuple[int, ...]


class ModelSource(ABC):
    """A model on the disk. Making one reads headers alone, so that even a large model is described at once.

    Raises ValueError for what is damaged, not supported, or no such model at all.
    """

    kind: ClassVar[str]
    """What the format is called, as "GGUF file"."""
    path: Path
    config: ModelConfig

    @abstractmethod
    def stored(self) -> dict[str, StoredTensor]:
        """Return every tensor of the files by its name there, from their headers."""

    @abstractmethod
    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield cutaway's names and tensors one after the other, so that little more than one is held in memory.

        A tied unembedding is not among them.
        """

    def tokenizer(self) -> Tokenizer | None:
        """Return the tokenizer that lies with the model, None where there is none."""
        return None

    def chat_template(self) -> str | None:
        """Return the Jinja template that writes a conversation as text, None where there is none."""
        return None

    def details(self) -> dict[str, str]:
        """Return what else a person would want to know of this model, a line each."""
        return {}


def read_model(source: ModelSource, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Transformer:
    """Build the model of a source, in evaluation mode; without a `dtype` 16-bit weights become float32, which holds them exactly."""
    return assemble(source.config, source.tensors(), source=str(source.path), device=device, dtype=dtype)


def assemble(
    config: ModelConfig,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    source: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | Literal["as stored"] | None = None,
) -> Transformer:
    """Build a model of this shape from cutaway's names and tensors, each taken over as it comes.

    It is in evaluation mode; without a `dtype` 16-bit weights become float32. Raises ValueError naming the tensor when one is missing,
    is not the model's, comes twice, or has another shape.
    """
    with torch.device("meta"):
        model = Transformer(config)
    for name, tensor in matching(tensors, {name: weight.shape for name, weight in model.named_parameters()}, source=source):
        own = tensor.dtype if dtype == "as stored" else torch.promote_types(tensor.dtype, torch.float32)
        wanted = dtype if isinstance(dtype, torch.dtype) else own
        _place(model, name, tensor.to(device=device, dtype=wanted).contiguous())
    if config.tie_embeddings:
        model.unembed.W_U.weight = model.embed.W_E
    return model.eval()


def matching(
    tensors: Iterable[tuple[str, Tensor]], shapes: Mapping[str, torch.Size], *, source: str
) -> Iterator[tuple[str, Tensor]]:
    """Yield names and tensors as they come, held against the shapes that are expected.

    Raises ValueError naming the tensor when one has another shape, and at the end when one is missing, unknown, or came twice.
    """
    missing, extra = dict(shapes), []
    for name, tensor in tensors:
        shape = missing.pop(name, None)
        if shape is None:
            extra.append(name)
        elif tensor.shape != shape:
            raise ValueError(f"{source}: {name} has shape {list(tensor.shape)}; the configuration expects {list(shape)}")
        else:
            yield name, tensor
    if missing:
        raise ValueError(f"{source} lacks {name_some(sorted(missing))}, which the configuration asks for")
    if extra:
        raise ValueError(f"{source} holds {name_some(sorted(extra))}, which the configuration does not know")


def _place(model: Transformer, name: str, tensor: Tensor) -> None:
    owner, _, parameter = name.rpartition(".")
    setattr(model.get_submodule(owner), parameter, torch.nn.Parameter(tensor))


def parameter_shapes(config: ModelConfig) -> dict[str, torch.Size]:
    """Return the shape of every parameter of such a model by its name; a tied unembedding is not among them.

    Raises ValueError for sizes that no machine can hold.
    """
    try:
        with torch.device("meta"):
            return {name: weight.shape for name, weight in Transformer(config).named_parameters()}
    except RuntimeError as error:
        raise ValueError(f"the sizes of the configuration make tensors that no machine can hold: {error}") from None


@contextmanager
def located(path: Path) -> Iterator[None]:
    """Begin the sentence of a ValueError with the path that it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def name_some(names: Sequence[str], *, n_shown: int = 3) -> str:
    """Return the first of these names in a row, and how many more there are."""
    more = f" and {len(names) - n_shown} more" if len(names) > n_shown else ""
    return ", ".join(names[:n_shown]) + more
