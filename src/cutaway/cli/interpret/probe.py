"""`cutaway interpret probe`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from cutaway.cli.command import excludes
from cutaway.cli.errors import UsageError
from cutaway.cli.interpret.labelled_data import read_labelled_data
from cutaway.cli.interpret.options import analysis
from cutaway.report.counting import count_progress

if TYPE_CHECKING:
    from cutaway.interp.probing import LabelledFile, ProbeScores
    from cutaway.interp.result import Result
    from cutaway.language_model import LanguageModel

__all__ = ["probe"]


@excludes("path", "answer", "control", "nulls", why="--path shows one probe over penalties")
@analysis(data="number", nulls=3, answer=("singular=is", "plural=are"))
def probe(
    lm: LanguageModel,
    *,
    data: str,
    site: str = "resid_post",
    layer: int | None = None,
    pos: tuple[int, ...] = (),
    kind: Literal["logistic", "mean-difference", "ridge", "mlp"] = "logistic",
    l2: float | None = None,
    control: bool = False,
    folds: int = 5,
    nulls: int = 5,
    answer: tuple[str, ...] = (),
    path: bool = False,
    seed: int = 0,
) -> Result:
    """Show where a label can be read from activations, on texts held out, beside what shuffled labels and word types alone give.

    With --answer the direction is put to the test too: on half of the texts the place is chosen and the probe fitted, and on the others
    activations are pushed along it, lose it, and are moved to the other class; how often the model's answer flips is shown beside the
    same moves along random directions. Texts that come twice, and those of a group, are learned or tested together.
    Alain and Bengio 2016; Hewitt and Liang 2019.

    Args:
        data FILE: a JSON object a line, of text and label, or of labels, a list of one a token; group names texts that are learned
            or tested together. Or number, tense: texts that come with cutaway
        site NAME: which activation of a layer is read: resid_pre, attn_out, z, mlp_out, mlp.post
        layer: that layer alone; all unless given
        pos: the position that is read, from the end where negative; may be given again. The last unless given
        kind: of the probe; ridge predicts numbers
        l2: the penalty on the weights of logistic and ridge probes; 0.01 unless given
        control: give each word type, the token that is read at, a random label too, and show the selectivity
        folds: into so many parts the texts are dealt; each is tested once
        nulls: so many draws of labels shuffled over texts, whole groups where each has one label, and of control tasks
        answer CLASS=TOKEN: what the model says of a class; give one for each of two classes
        path: show the score over penalties, of --layer
        seed: of folds, draws and random directions

    Examples:
        cutaway interpret probe --demo
        cutaway interpret probe smollm2-135m --data number --answer singular=is --answer plural=are
        cutaway interpret probe smollm2-135m --data labels.jsonl --site attn_out --layer 12 --pos -1 --pos -2 --control

    In Python:
        from cutaway import probing
        found = probing.probe(lm, texts, labels, names="blocks.*.resid_post", pos=-1, with_control=True)
        found.best.validation.selectivity, found.best.probe.direction
        probing.cause(lm, found.best.probe, texts, labels, answers={"singular": "is", "plural": "are"}).show()
    """
    from cutaway.interp import probing
    from cutaway.interp.sites import full_name

    given = read_labelled_data(data)
    asked = _answers(answer)
    layers = range(lm.config.n_layers) if layer is None else [layer]
    names = [full_name(lm.config, site, each) for each in layers]
    chosen = _kind(kind, l2)
    if path:
        return _path(lm, given, names, pos, chosen, folds, seed)
    settings: dict[str, Any] = {"n_folds": folds, "n_nulls": nulls, "with_control": control, "seed": seed}
    positions = None if given.is_by_token else list(pos) or -1
    with count_progress("probes") as progress:
        found = probing.probe(
            lm,
            given.texts,
            given.labels,
            names=names,
            pos=positions,
            groups=given.groups,
            kind=chosen,
            progress=progress,
            **settings,
        )
    if not asked:
        return found
    return _with_causes(lm, found, given, asked, {"kind": chosen, "n_folds": folds, "seed": seed})


def _with_causes(
    lm: LanguageModel, found: ProbeScores, given: LabelledFile, answers: dict[str, str], settings: dict[str, Any]
) -> Result:
    from cutaway.interp import probing

    if given.is_by_token:
        raise UsageError("--answer is of what a text ends with: give data with one label a text")
    pair = tuple(label for label in found.classes if str(label) in answers)
    if len(pair) != 2 or len(answers) != 2:
        known = ", ".join(map(str, found.classes))
        raise UsageError(f"--answer was given for {', '.join(answers)}; expected two of the classes {known}, each with CLASS=TOKEN")
    groups = given.groups or tuple(range(len(given.texts)))
    labelled = [row for row in zip(given.texts, given.labels, groups, strict=True) if row[1] in pair]
    texts, labels, groups = zip(*labelled, strict=True)
    of_class: Any = {label: answers[str(label)] for label in pair}
    asked: dict[str, Any] = {"groups": groups, "answers": of_class, **settings}
    places = [each.place for each in found.scores]
    names, positions = list(dict.fromkeys(each.name for each in places)), [pos for pos in found.positions if pos is not None]
    with count_progress("probes") as progress:
        if len(places) == 1:
            causes = probing.cause_held_out(lm, texts, labels, name=names[0], pos=positions[0], progress=progress, **asked)
        else:
            causes = probing.choose_and_cause(lm, texts, labels, names=names, pos=positions, progress=progress, **asked)
    return replace(found, causes=causes)


def _path(
    lm: LanguageModel, given: LabelledFile, names: list[str], pos: tuple[int, ...], kind: Any, folds: int, seed: int
) -> Result:
    from cutaway.interp import probing

    if len(names) > 1 or len(pos) > 1:
        raise UsageError("--path shows one place: give --layer, and at most one --pos")
    if not isinstance(kind, probing.Logistic | probing.Ridge):
        raise UsageError(f"a {kind.name} probe has no penalty: give --kind logistic or ridge")
    at = None if given.is_by_token else pos[0] if pos else -1
    return probing.text_path(
        lm, given.texts, given.labels, name=names[0], pos=at, groups=given.groups, kind=kind, n_folds=folds, seed=seed
    )


def _kind(kind: str, l2: float | None) -> Any:
    from cutaway.interp.probing import Logistic, Ridge, kind_of

    chosen = kind_of(kind)
    if l2 is None:
        return chosen
    if not isinstance(chosen, Logistic | Ridge):
        raise UsageError(f"--l2 is the penalty of logistic and ridge probes, and --kind is {kind}: leave it out")
    return replace(chosen, l2=l2)


def _answers(given: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for each in given:
        label, sign, token = each.partition("=")
        if not (label and sign and token):
            raise UsageError(f"--answer is {each!r}; expected a class and what the model says of it, CLASS=TOKEN")
        found[label] = token
    return found
