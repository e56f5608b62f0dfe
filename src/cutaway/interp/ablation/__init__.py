"""What is lost without a head, a layer, a neuron or a position, and what the rest of the model does about it."""

from cutaway.interp.ablation.ablate import HeadSet, ablate, ablate_heads, head_edits
from cutaway.interp.ablation.backup import BackupEffects, backup_effects
from cutaway.interp.ablation.importance import HeadImportance, Per, gradient_importance, head_importance
from cutaway.interp.ablation.replacement import How, Replacement, make_replacement
from cutaway.interp.ablation.result import Ablation, Effect
from cutaway.interp.ablation.units import Unit, What
from cutaway.interp.rows import Reference, Rows, Texts, rows_of

__all__ = [
    "ablate",
    "Ablation",
    "Effect",
    "Unit",
    "What",
    "How",
    "ablate_heads",
    "HeadSet",
    "head_edits",
    "Replacement",
    "make_replacement",
    "Rows",
    "Texts",
    "Reference",
    "rows_of",
    "head_importance",
    "HeadImportance",
    "gradient_importance",
    "Per",
    "backup_effects",
    "BackupEffects",
]
