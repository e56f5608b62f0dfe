"""`cutaway interpret sae probe`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cutaway.cli.interpret.labelled_data import read_labelled_data
from cutaway.cli.interpret.options import analysis
from cutaway.cli.interpret.sae.corpus import SAID_OF_MODEL, given_or_sketch, model_of_dictionary
from cutaway.report.counting import count_progress

if TYPE_CHECKING:
    from cutaway.interp.result import Result
    from cutaway.language_model import LanguageModel

__all__ = ["probe"]


@analysis(data="number", source_of=model_of_dictionary, source_said=SAID_OF_MODEL)
def probe(
    lm: LanguageModel,
    *,
    source: str,
    data: str,
    sae: Path | None = None,
    corpus: str | None = None,
    label: str | None = None,
    pos: int = -1,
    k: tuple[int, ...] = (),
    l2: float = 1e-3,
    folds: int = 5,
    draws: int = 3,
    seed: int = 0,
) -> Result:
    """Show how few latents of a dictionary tell a label of texts, on texts held out.

    Beside k latents stand k of the activation's own coordinates, k latents of random dictionaries that have as many a row, and a probe
    on all coordinates. Gurnee et al. 2023.

    Args:
        data FILE: a JSON object a line, of text and label, or of labels, a list of one a token; group names texts that are learned
            or tested together. Or number, tense: texts that come with cutaway
        sae FOLDER: a dictionary, saved here or by SAELens; a sketch is trained where none is given
        corpus TEXT: what a sketch is trained on: a file, a folder, a glob, or stdlib, shakespeare, tinyshakespeare; unless given the
            text that the model's run learned from, or stdlib
        label CLASS: the class that is told from the others; of two the second unless given
        pos: the position that is read, from the end where negative
        k: so many latents; may be given again. 1, 2, 5, 10 and 20 unless given
        l2: the penalty on the probes' weights
        folds: into so many parts the texts are dealt; each is tested once
        draws: so many random dictionaries
        seed: of folds, random dictionaries and the sketch

    Examples:
        cutaway interpret sae probe --demo
        cutaway interpret sae probe smollm2-135m --sae sae-9 --data labels.jsonl --label past --k 1 --k 3

    In Python:
        from cutaway import sae
        found = sae.probe_latents(lm, sae.load_dictionary("sae-9"), texts, labels, ks=(1, 5))
        found.latents[0].features, found.latents[0].accuracy, found.dense
    """
    from cutaway.interp.sae import probe_latents

    given = read_labelled_data(data)
    dictionary = given_or_sketch(lm, sae, corpus, source=source, n_pos=128, seed=seed)
    with count_progress("probes") as progress:
        return probe_latents(
            lm, dictionary, given.texts, given.labels, pos=None if given.is_by_token else pos, label=label, groups=given.groups,
            **({"ks": k} if k else {}), l2=l2, n_folds=folds, n_random=draws, seed=seed, progress=progress,
        )  # fmt: skip
