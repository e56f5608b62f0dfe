"""Many edited runs of one model, each computed only where its edits can change anything."""

from cutaway.interp.sweep.plan import AnyMetric, SweepPlan, plan_sweep, sweep

__all__ = ["sweep", "plan_sweep", "SweepPlan", "AnyMetric"]
