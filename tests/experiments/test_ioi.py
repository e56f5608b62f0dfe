"""Prompts about who is given something: of one template, of several of one length, and of another to check with."""

import pytest

from cutaway import LanguageModel, ModelConfig, Transformer
from cutaway.experiments.ioi import TEMPLATES, ioi_prompts
from cutaway.tokenizers import BPETokenizer

WORDS = " Mary John Tom James store garden drink book"


@pytest.fixture(scope="module")
def lm():
    """A model without layers whose tokens are names, places, objects and the templates' words."""
    fill = {"first": " Mary", "second": " John", "giver": " Tom", "place": " store", "object": " drink"}
    text = "\n".join([WORDS, *(template.format(**fill) for template in TEMPLATES)]) + "\n"
    tokenizer = BPETokenizer.train(60 * text, 328)
    return LanguageModel(Transformer(ModelConfig(d_vocab=tokenizer.d_vocab, n_ctx=40, n_layers=0, n_heads=1, d_model=4)), tokenizer)


def template_of(text):
    (found,) = {i for i, template in enumerate(TEMPLATES) if text.startswith(template.split("{")[0])}
    return found


def test_one_template_is_drawn_or_each_row_s_from_those_given(lm):
    assert len(set(map(template_of, ioi_prompts(lm, 12).texts))) == 1
    assert set(map(template_of, ioi_prompts(lm, 12, templates=TEMPLATES[:2]).texts)) == {0, 1}
    held_out = ioi_prompts(lm, 12, templates=TEMPLATES[2:])
    assert set(map(template_of, held_out.texts)) == {2}
    assert held_out.pairs(lm).measured == "logit difference of each pair's own answers"
    one = ioi_prompts(lm, 12, seed=0)
    assert ioi_prompts(lm, 12, seed=0, templates=[TEMPLATES[template_of(one.texts[0])]]).texts != ioi_prompts(lm, 12, seed=1).texts


def test_templates_of_different_length_are_refused(lm):
    with pytest.raises(ValueError, match=r"the templates have prompts of \d+ tokens as .* give templates of one length"):
        ioi_prompts(lm, 12, templates=TEMPLATES)
