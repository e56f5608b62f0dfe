import pytest

from cutaway.assets import CATALOGUE
from cutaway.data import Corpus
from cutaway.training import TRAIN_PRESETS, TrainConfig, expected_loss

TINY = CATALOGUE["tinyshakespeare"].files[0].sha256


def corpus(name, sha256="0"):
    return Corpus(name, "text", sha256)


@pytest.mark.parametrize(
    ("preset", "text", "loss"),
    [
        ("shakespeare-char", corpus("tinyshakespeare"), 1.82),
        ("shakespeare-char", corpus("downloads/anything.txt", TINY), 1.82),
        ("shakespeare-char", corpus("my/tinyshakespeare.txt"), None),  # the name alone does not make it that text
        ("shakespeare-fast", corpus("tinyshakespeare"), 1.83),
        ("shakespeare-char", corpus("stdlib"), 1.61),  # the same recipe has a preset for that text
        ("attn-only-1l", corpus("shakespeare"), 4.71),
    ],
)
def test_the_expected_loss_is_of_a_recipe_on_a_text(preset, text, loss):
    assert expected_loss(TRAIN_PRESETS[preset], text) == loss


def test_another_recipe_promises_nothing():
    assert expected_loss(TrainConfig.preset("shakespeare-char", seed=3, validate_every=7), corpus("tinyshakespeare")) == 1.82
    assert expected_loss(TrainConfig.preset("shakespeare-char", n_steps=500), corpus("tinyshakespeare")) is None
