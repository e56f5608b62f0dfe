"""How good a model is by the field's own tests, and how two models differ."""

from cutaway.evaluation.comparison import Comparison, compare
from cutaway.evaluation.lambada import lambada
from cutaway.evaluation.multiple_choice import PROTOCOLS, multiple_choice
from cutaway.evaluation.perplexity import perplexity
from cutaway.evaluation.results import Evaluation, Metric, results_table
from cutaway.evaluation.rows import DATASETS
from cutaway.evaluation.scoring import Request, Score, Scores, score_batches, score_continuations

__all__ = [
    "perplexity",
    "multiple_choice",
    "PROTOCOLS",
    "lambada",
    "DATASETS",
    "Evaluation",
    "Metric",
    "results_table",
    "compare",
    "Comparison",
    "score_continuations",
    "score_batches",
    "Request",
    "Score",
    "Scores",
]
