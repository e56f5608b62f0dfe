"""Text from a model, token by token."""

from cutaway.generation.beam import Beam, beam_search
from cutaway.generation.cached import CachedDecoder
from cutaway.generation.chat import Message, render_chat
from cutaway.generation.compiled import CompiledDecoder
from cutaway.generation.decode import decode
from cutaway.generation.sampling import SAMPLING_PRESETS, RowStreams, Sampling, draw, shaped_log_probs
from cutaway.generation.stops import TextStream

__all__ = [
    "Sampling",
    "SAMPLING_PRESETS",
    "shaped_log_probs",
    "draw",
    "RowStreams",
    "CachedDecoder",
    "CompiledDecoder",
    "decode",
    "Beam",
    "beam_search",
    "TextStream",
    "Message",
    "render_chat",
]
