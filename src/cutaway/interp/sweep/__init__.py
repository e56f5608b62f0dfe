"""Many edited runs of one model, each computed only where its edits can change anything."""

from cutaway.interp.sweep.plan import AnyMetric, SweepPlan, plan_sweep, sweep
from cutaway.interp.sweep.reading import score_read

__all__ = ["sweep", "plan_sweep", "SweepPlan", "AnyMetric", "score_read"]
