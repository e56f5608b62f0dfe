from collections import Counter

from cutaway.model import Transformer
from cutaway.training.optimizer import make_optimizers


def test_matrices_decay_and_biases_and_norms_do_not(variant, config):
    model = Transformer(variant)
    (optimizer,) = make_optimizers(model, config.replace(weight_decay=0.3))
    decay_of = {id(weight): group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]}
    for name, weight in model.named_parameters():
        is_matrix = any(part.startswith("W_") for part in name.split(".")) and not name.endswith("bias")
        assert decay_of[id(weight)] == (0.3 if is_matrix else 0.0), name


def test_every_parameter_is_there_once(variant, config):
    model = Transformer(variant)
    (optimizer,) = make_optimizers(model, config)
    places = Counter(id(weight) for group in optimizer.param_groups for weight in group["params"])
    assert places == {id(weight): 1 for weight in model.parameters()}
    if variant.tie_embeddings:
        assert model.unembed.W_U.weight is model.embed.W_E


def test_the_recipe_s_numbers_arrive(tiny_model, config):
    (optimizer,) = make_optimizers(tiny_model, config.replace(learning_rate=0.02, beta1=0.8, beta2=0.95))
    assert all((group["lr"], group["betas"], group["eps"]) == (0.02, (0.8, 0.95), 1e-8) for group in optimizer.param_groups)
