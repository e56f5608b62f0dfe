"""Activation patching: what one run's activations do in another run."""

from cutaway.interp.patching.experiment import Direction, align_prompts, patch
from cutaway.interp.patching.grid import (
    Cell,
    get_act_patch_attn_head_k_all_pos,
    get_act_patch_attn_head_out_all_pos,
    get_act_patch_attn_head_pattern_all_pos,
    get_act_patch_attn_head_q_all_pos,
    get_act_patch_attn_head_v_all_pos,
    get_act_patch_attn_out,
    get_act_patch_mlp_out,
    get_act_patch_resid_mid,
    get_act_patch_resid_pre,
    patch_grid,
)
from cutaway.interp.patching.questions import (
    MetricName,
    Question,
    Targets,
    check_gap,
    metric_of,
    read_question,
    read_targets,
)
from cutaway.interp.patching.recovery import BANDS_IN_WORDS, LayerRecovery, PatchResult, band

__all__ = [
    "patch",
    "Direction",
    "align_prompts",
    "PatchResult",
    "LayerRecovery",
    "band",
    "BANDS_IN_WORDS",
    "patch_grid",
    "Cell",
    "get_act_patch_resid_pre",
    "get_act_patch_resid_mid",
    "get_act_patch_attn_out",
    "get_act_patch_mlp_out",
    "get_act_patch_attn_head_out_all_pos",
    "get_act_patch_attn_head_q_all_pos",
    "get_act_patch_attn_head_k_all_pos",
    "get_act_patch_attn_head_v_all_pos",
    "get_act_patch_attn_head_pattern_all_pos",
    "Targets",
    "Question",
    "MetricName",
    "read_targets",
    "read_question",
    "metric_of",
    "check_gap",
]
