"""A character a token, none twice."""

import pytest

from cutaway.experiments.letters import letters


def test_every_token_has_a_character_of_its_own() -> None:
    tokenizer = letters(64)
    assert tokenizer.d_vocab == 64
    assert tokenizer.encode(tokenizer.decode(list(range(64)))) == list(range(64))
    with pytest.raises(ValueError, match="d_vocab is 65; there are characters for 1 to 64"):
        letters(65)
