"""Causal tracing: which states of the clean run bring an answer back, in one prompt or on average over several."""

from cutaway.interp.tracing.average import ROLES, AverageTrace, average_trace
from cutaway.interp.tracing.trace import TraceResult, trace

__all__ = ["trace", "TraceResult", "average_trace", "AverageTrace", "ROLES"]
