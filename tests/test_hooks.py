"""Hooks by themselves: names, order, replacing, and what is refused. In a model: invariants/test_hooks_in_model.py."""

import pytest
import torch
from torch import Tensor

from cutaway.hooks import NO_HOOKS, Hooks, canonical_name, recording, replacing


def test_looking_hands_the_same_tensor_on() -> None:
    x = torch.ones(2)
    seen: list[tuple[Tensor, str]] = []
    assert Hooks({"x": lambda value, name: seen.append((value, name))})("x", x) is x
    assert seen[0][0] is x
    assert seen[0][1] == "x"


def test_replacing_hands_the_new_tensor_on() -> None:
    new = torch.zeros(2)
    assert replacing({"x": new})("x", torch.ones(2)) is new


def test_replacing_keeps_names_and_tensors_together() -> None:
    a, b = torch.zeros(2), torch.ones(2)
    hooks = replacing({"a": a, "b": b})
    assert hooks("a", torch.full((2,), 9.0)) is a
    assert hooks("b", torch.full((2,), 9.0)) is b


def test_several_functions_run_in_the_order_given() -> None:
    hooks = Hooks({"x": [lambda x, _: x + 1, lambda x, _: x * 10], "*": lambda x, _: x - 3})
    assert hooks("x", torch.tensor(1.0)).item() == 17.0


def test_two_spellings_of_one_name_are_one_name() -> None:
    hooks = Hooks({"attn.hook_z": lambda x, _: x + 1, "attn.z": lambda x, _: x * 10})
    assert hooks.at("attn")("z", torch.tensor(1.0)).item() == 20.0


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("hook_embed", "embed"),
        ("hook_pos_embed", "pos_embed"),
        ("blocks.0.hook_resid_pre", "blocks.0.resid_pre"),
        ("blocks.0.attn.hook_pattern", "blocks.0.attn.pattern"),
        ("blocks.*.attn.hook_z", "blocks.*.attn.z"),
        ("blocks.11.ln1.hook_scale", "blocks.11.ln1.scale"),
        ("blocks.0.mlp.hook_post", "blocks.0.mlp.post"),
        ("ln_final.hook_normalized", "ln_final.normalized"),
    ],
)
def test_transformerlens_spellings(theirs: str, ours: str) -> None:
    assert canonical_name(theirs) == ours
    assert canonical_name(ours) == ours


def test_scopes_nest_and_globs_match_full_names() -> None:
    hooks, activations = recording("blocks.*.attn.z", "blocks.1.*")
    for layer in range(3):
        block = hooks.at("blocks", layer)
        block("resid_pre", torch.tensor(layer))
        block.at("attn")("z", torch.tensor(10 + layer))
    assert {name: x.item() for name, x in activations.items()} == {
        "blocks.0.attn.z": 10,
        "blocks.1.resid_pre": 1,
        "blocks.1.attn.z": 11,
        "blocks.2.attn.z": 12,
    }


def test_wants_answers_for_this_scope() -> None:
    hooks = Hooks({"blocks.2.attn.pattern": lambda x, _: None})
    assert hooks.at("blocks", 2, "attn").wants("attn_scores", "pattern")
    assert not hooks.at("blocks", 2, "attn").wants("attn_scores", "z")
    assert not hooks.at("blocks", 1, "attn").wants("pattern")
    assert not NO_HOOKS.wants("pattern")


@pytest.mark.parametrize("wrong", [torch.zeros(3), torch.zeros(1, 2), torch.tensor(0.0)], ids=lambda x: str(tuple(x.shape)))
def test_another_shape_is_refused(wrong: Tensor) -> None:
    with pytest.raises(ValueError, match=r"the hook on 'blocks.0.x' returned .* expected a tensor of shape \(2,\), .*, or None"):
        Hooks({"blocks.0.x": lambda _x, _name: wrong}).at("blocks", 0)("x", torch.ones(2))


@pytest.mark.usefixtures("without_type_checks")
def test_what_is_no_tensor_is_refused() -> None:
    with pytest.raises(ValueError, match="returned a value of type float"):
        Hooks({"x": lambda _x, _name: 1.0})("x", torch.ones(2))  # type: ignore[dict-item, return-value]


def test_a_name_that_never_came_up_is_refused_with_the_nearest() -> None:
    hooks = Hooks({"blocks.0.attn.patern": lambda x, _: None, "logits": lambda x, _: None})
    hooks("logits", torch.ones(2))
    with pytest.raises(ValueError, match=r"'blocks.0.attn.patern'.*nearest names are blocks.0.attn.pattern"):
        hooks.check_fired(lambda: ["embed", "blocks.0.attn.pattern", "logits"])


def test_names_that_all_came_up_ask_for_no_list() -> None:
    hooks = Hooks({"log*": lambda x, _: None})
    hooks("logits", torch.ones(2))
    hooks.check_fired(lambda: pytest.fail("finding the names costs a model: not when nothing is wrong"))


def test_no_hooks_hand_the_same_tensor_on() -> None:
    x = torch.ones(2)
    assert NO_HOOKS.at("blocks", 3)("resid_pre", x) is x
    NO_HOOKS.check_fired(lambda: ["resid_pre"])  # it asked for none, so none is missing


def test_they_print_as_the_names_they_are_for() -> None:
    hooks = Hooks({"blocks.*.attn.hook_pattern": lambda x, _: None, "logits": lambda x, _: None})
    assert repr(hooks) == "Hooks('blocks.*.attn.pattern', 'logits')"
    assert repr(NO_HOOKS) == "NoHooks()"
