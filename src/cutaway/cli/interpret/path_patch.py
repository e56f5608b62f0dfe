"""`cutaway interpret path-patch`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cutaway.cli.interpret.options import analysis
from cutaway.cli.interpret.prompt_files import PAIRS
from cutaway.cli.many_processes import shares_work
from cutaway.report.counting import count_progress

if TYPE_CHECKING:
    from cutaway.interp.result import Result
    from cutaway.language_model import LanguageModel

__all__ = ["path_patch"]

_CLEAN = "When Mary and John went to the store, John gave a drink to"
_CORRUPTED = "When Mary and John went to the store, Mary gave a drink to"
_LINES = {"text" if option == "clean" else option: word for option, word in PAIRS.items()}


@shares_work
@analysis(_LINES, text=(_CLEAN,), corrupted=(_CORRUPTED,), target=("Mary",), wrong=("John",))
def path_patch(
    lm: LanguageModel,
    *,
    text: tuple[str, ...],
    corrupted: tuple[str, ...],
    target: tuple[str, ...],
    wrong: tuple[str, ...] = (),
    sender: tuple[str, ...] = (),
    receiver: tuple[str, ...] = (),
    receiver_pos: int | None = None,
    mlps: Literal["frozen", "recomputed"] = "recomputed",
    features: tuple[Path, ...] = (),
    frozen_norm: tuple[str, ...] = (),
    metric: Literal["logit_diff", "prob", "log_prob"] | None = None,
) -> Result:
    """Show which parts of the model act through which input of which others: patches between one sender and one receiver alone.

    A sender writes in the run of the text what it writes for the corrupted text; all other heads are held, and one input of a receiver
    takes what comes of it; then everything after the receiver is recomputed. Senders are the embedding, all heads and all MLPs, and the
    receiver is the logits, unless given; of several receivers each is patched alone, and those joined by + together. Wang et al. 2022,
    section 3.1.

    Args:
        text: what is read; may be given again, for the mean over several
        corrupted TEXT: what the senders read instead; one for each text
        target TOKEN: the answer to the text; one for all texts, or one for each
        wrong TOKEN: another answer; the metric is then their logit difference
        sender: embed, a head such as L3H7, an MLP such as mlp3, its neuron mlp3.17, or with --features its feature mlp3.f12; may be
            given again for more
        receiver: one input of a head such as L9H6.q (L9H6 is q, k and v), keys or values that a group of heads shares such as L9G2.k,
            an MLP, a neuron, a feature or logits; several joined by + take it together; may be given again for more
        receiver_pos: where receivers take it, counted from the end where negative; everywhere unless given
        mlps: held where they were, or recomputed, between sender and receiver
        features FOLDER: a dictionary of an MLP's output, or a transcoder, of which features send or receive
        frozen_norm NAME: a norm whose scale is held, such as blocks.3.ln1 or ln_final; may be a glob, and given again for more
        metric: of the answer; logit_diff with a wrong one, else log_prob

    Examples:
        cutaway interpret path-patch --demo
        cutaway interpret path-patch --demo --receiver L24H5.q --receiver-pos=-1
        cutaway interpret path-patch --demo --receiver L24H5.q+L26H1.q
        cutaway interpret path-patch --demo --mlps frozen --report paths.html

    In Python:
        from cutaway import path_patching
        found = path_patching.path_patch(lm, text, corrupted, "Mary", "John", receivers=["L24H5.q+L26H1.q"])
        found.ranked()[:5], found.recovery  # sender receiver
    """
    from cutaway.interp import path_patching
    from cutaway.interp.circuits import FeatureNodes
    from cutaway.interp.sae import load_dictionary

    nodes = [FeatureNodes.named(load_dictionary(each), [*sender, *receiver], path=each) for each in features]
    with count_progress("paths") as progress:
        return path_patching.path_patch(
            lm, text, corrupted, target, wrong or None,
            senders=sender or None, receivers=receiver or ("logits",), receiver_pos=receiver_pos, mlps=mlps, features=nodes,
            frozen_norms=frozen_norm, metric=metric, progress=progress,
        )  # fmt: skip
