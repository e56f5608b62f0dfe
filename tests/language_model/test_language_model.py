"""Text in, text out: what a language model does is what its public parts do one after the other."""

import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cutaway.config import ModelConfig
from cutaway.generation import Sampling, TextStream, beam_search, decode
from cutaway.language_model import LanguageModel, load
from cutaway.model import Transformer
from cutaway.tokenizers import END_OF_TEXT, BPETokenizer, BytePairTokenizer, CharTokenizer, NoTokenizer
from cutaway.weights import save_model
from tiny_language_models import SIZES, MakeModel, make_lm

PROMPTS = ["ROMEO:\nBut soft", "a", "What light"]


@pytest.fixture
def bpe(make_model: MakeModel) -> LanguageModel:
    """Of bytes and a token that ends a text: what it makes of itself is full of halves of characters."""
    return make_lm(make_model, BPETokenizer(special_tokens=[END_OF_TEXT]))


def test_the_tokenizer_must_fit(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match="the char tokenizer has 100 tokens and the model d_vocab 99: they do not belong together"):
        make_lm(make_model, CharTokenizer.fit(string.printable), d_vocab=99)
    make_lm(make_model, CharTokenizer.fit(string.printable), d_vocab=101)


def test_tokens_and_text(lm: LanguageModel) -> None:
    tokens = lm.tokens("hello")
    assert tokens.shape == (1, 5)
    assert tokens.dtype == torch.int64
    assert tokens[0].tolist() == lm.tokenizer.encode("hello")
    assert lm.text(tokens[0]) == lm.text(tokens[0].tolist()) == "hello"
    assert lm.model(tokens).shape == (1, 5, 120)


def test_shorter_rows_are_filled_up_where_nothing_sees_it(lm: LanguageModel, bpe: LanguageModel) -> None:
    for each, fill in ((lm, 0), (bpe, bpe.tokenizer.eot)):
        tokens = each.tokens(PROMPTS)
        assert tokens.shape == (3, len(PROMPTS[0]))
        for row, text in zip(tokens, PROMPTS, strict=True):
            n = len(each.tokenizer.encode(text))
            assert row[:n].tolist() == each.tokenizer.encode(text)
            assert row[n:].tolist() == [fill] * (len(row) - n)
            # float64, the same sums in another order
            torch.testing.assert_close(each.model(tokens)[1, 0], each.model(each.tokens("a"))[0, 0], rtol=0, atol=1e-12)


def test_the_beginning_of_text_token(lm: LanguageModel, bpe: LanguageModel) -> None:
    plain = bpe.tokenizer.encode("hello")
    assert bpe.tokens("hello").tolist() == bpe.tokens("hello", bos=False).tolist() == [plain]
    assert bpe.tokens(["hello", ""], bos=True).tolist() == [[256, *plain], [256] * 6]
    with pytest.raises(ValueError, match="bos=True, and the char tokenizer has no beginning-of-text token"):
        lm.tokens("hello", bos=True)
    assert bpe.generate("", bos=True, max_new_tokens=5) == "".join(bpe.stream("", bos=True, max_new_tokens=5))


@pytest.mark.parametrize("text", ["", [], ["a", ""]])
def test_a_text_without_tokens(lm: LanguageModel, text: str | list[str]) -> None:
    for ask in (lm.tokens, lm.generate):
        with pytest.raises(ValueError, match="a prompt has no tokens: give some text to go on from"):
            ask(text)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (5, "a prompt is 5, of type int; expected text: ids are read by lm.model"),
        ([[1, 2]], r"a prompt is \[1, 2\], of type list; expected text"),
        (torch.arange(99), r"a prompt is tensor\(.{50}\.\.\., of type Tensor; expected text"),
        (["a", None], "a prompt is None, of type NoneType; expected text"),
    ],
    ids=str,
)
def test_what_is_no_text(lm: LanguageModel, given: Any, sentence: str) -> None:
    for ask in (lm.tokens, lm.generate):
        with pytest.raises(ValueError, match=sentence):
            ask(given)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (torch.zeros(1, 3, dtype=torch.int64), r"the ids have the shape \[1, 3\]; expected one row of them, as tokens\[0\]"),
        ("hello", "'hello' is text already; expected ids, as lm.tokens gives them"),
        ([3, 110], "id 110 has no token: the char tokenizer has d_vocab 100"),
    ],
    ids=str,
)
def test_what_is_no_row_of_ids(lm: LanguageModel, given: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        lm.text(given)


def test_special_tokens_in_a_prompt_are_ordinary_text(bpe: LanguageModel) -> None:
    assert bpe.tokens(END_OF_TEXT).tolist() == [list(bpe.tokenizer.encode(END_OF_TEXT))]
    assert bpe.tokenizer.eot not in bpe.tokens(END_OF_TEXT)[0].tolist()


@pytest.mark.parametrize("name", ["lm", "bpe"])
def test_generate_is_the_prompt_and_the_stream_joined(request: pytest.FixtureRequest, name: str) -> None:
    model = request.getfixturevalue(name)
    for seed in range(5):
        pieces = list(model.stream("But soft", max_new_tokens=30, seed=seed))
        assert model.generate("But soft", max_new_tokens=30, seed=seed) == "But soft" + "".join(pieces)


def test_generate_is_a_composition_of_public_parts(bpe: LanguageModel) -> None:
    prompt, stop, sampling = "But soft", ("e", "\n"), Sampling(temperature=1.3, top_k=150, top_p=0.99, repetition_penalty=1.2)
    for seed in range(5):
        text_stream, text = TextStream(bpe.tokenizer, stop), prompt
        for ((_, token),) in decode(bpe.model, [bpe.tokenizer.encode(prompt)], max_new_tokens=40, sampling=sampling, seed=seed):
            if token == bpe.tokenizer.eot:
                break
            text += text_stream.push(token)
            if text_stream.is_done:
                break
        text += text_stream.flush()
        choices = {"temperature": 1.3, "top_k": 150, "top_p": 0.99, "repetition_penalty": 1.2}
        assert bpe.generate(prompt, max_new_tokens=40, stop=stop, seed=seed, **choices) == text
        assert prompt + "".join(bpe.stream(prompt, max_new_tokens=40, stop=stop, seed=seed, sampling=sampling)) == text


@pytest.mark.parametrize("choices", [{"temperature": 0.0}, {"temperature": 1.5}, {"num_beams": 3}])
def test_a_batch_is_each_prompt_alone(lm: LanguageModel, choices: dict[str, Any]) -> None:
    together = lm.generate(PROMPTS, max_new_tokens=20, stop=["e"], seed=4, **choices)
    assert together == [lm.generate(prompt, max_new_tokens=20, stop=["e"], seed=4, **choices) for prompt in PROMPTS]
    assert all(text.startswith(prompt) for text, prompt in zip(together, PROMPTS, strict=True))


def test_the_same_seed_gives_the_same_text(lm: LanguageModel) -> None:
    texts = [lm.generate("a", max_new_tokens=20, temperature=1.0, seed=seed) for seed in range(6)]
    assert len(set(texts)) == 6
    torch.manual_seed(99)
    assert texts == [lm.generate("a", max_new_tokens=20, temperature=1.0, seed=seed) for seed in range(6)]
    assert lm.generate("a", max_new_tokens=20, temperature=1.0) == texts[0]
    assert len(set(lm.generate(["a"] * 4, max_new_tokens=20, temperature=1.0))) == 4


def test_only_ids_of_the_tokenizer_come(make_model: MakeModel) -> None:
    model = make_lm(make_model, CharTokenizer.fit("ab"), d_vocab=500)
    for choices in ({"temperature": 9.0}, {"num_beams": 2}):
        assert set(model.generate("ab", max_new_tokens=40, **choices)) == {"a", "b"}


def test_the_text_ends_before_the_first_stop_string(lm: LanguageModel) -> None:
    whole = lm.generate("a", max_new_tokens=40, temperature=1.0)[1:]
    for stop in (whole[10:13], whole[20], whole[:2]):
        assert lm.generate("a", max_new_tokens=40, temperature=1.0, stop=[stop, "not there"]) == "a" + whole[: whole.index(stop)]
    assert lm.generate("a", max_new_tokens=40, temperature=1.0, stop=["not there"]) == "a" + whole
    best = lm.generate("a", max_new_tokens=10, num_beams=3)[1:]
    assert lm.generate("a", max_new_tokens=10, num_beams=3, stop=[best[4:6]]) == "a" + best[: best.index(best[4:6])]
    with pytest.raises(ValueError, match="a stop string is empty"):
        lm.generate("a", stop=[""])


def test_decoding_ends_with_the_stop_string(lm: LanguageModel) -> None:
    n_read = []
    handle = lm.model.unembed.register_forward_hook(lambda *given: n_read.append(1))
    whole = lm.generate("a", max_new_tokens=40, temperature=1.0)[1:]
    stop = whole[10:13]
    n_read.clear()
    lm.generate("a", max_new_tokens=40, temperature=1.0, stop=[stop])
    handle.remove()
    assert len(n_read) == whole.index(stop) + 3


def test_the_end_of_text_token_ends_the_text_and_is_not_shown(make_model: MakeModel) -> None:
    tokenizer = BPETokenizer(special_tokens=[END_OF_TEXT])
    config = ModelConfig(**{**SIZES, "d_vocab": 257, "unembed_bias": True})
    lm = LanguageModel(make_model(config), tokenizer)
    with torch.no_grad():
        lm.model.unembed.W_U.bias[tokenizer.eot] += 100.0
    assert lm.generate("abc", max_new_tokens=9) == "abc"
    assert "".join(lm.stream("abc", max_new_tokens=9)) == ""
    assert lm.generate("abc", max_new_tokens=9, num_beams=2) == "abc"
    assert lm.generate(["abc", "d"], max_new_tokens=9) == ["abc", "d"]


def test_presets_and_what_differs_from_them(lm: LanguageModel) -> None:
    def by(sampling: Sampling) -> str:
        return "a" + "".join(lm.stream("a", max_new_tokens=30, sampling=sampling, seed=2))

    for preset in ("precise", "balanced", "creative"):
        assert lm.generate("a", max_new_tokens=30, preset=preset, seed=2) == by(Sampling.of(preset))
    assert lm.generate("a", max_new_tokens=30, seed=2) == by(Sampling.of("balanced"))
    changed = lm.generate("a", max_new_tokens=30, seed=2, preset="creative", temperature=2.0, min_p=0.5)
    assert changed == by(Sampling(temperature=2.0, min_p=0.5))
    with pytest.raises(ValueError, match="no sampling preset 'wild'; there are precise, balanced, creative"):
        lm.generate("a", preset="wild")


def test_beams(lm: LanguageModel) -> None:
    choices = {"num_beams": 3, "max_new_tokens": 6, "length_penalty": 0.5}
    best = beam_search(lm.model, lm.tokenizer.encode("ab"), never=range(lm.tokenizer.d_vocab, lm.config.d_vocab), **choices)[0]
    assert lm.generate("ab", **choices) == "ab" + lm.text(best.tokens)
    assert lm.generate("ab", num_beams=1, max_new_tokens=6, seed=3) == lm.generate("ab", max_new_tokens=6, seed=3)


def test_beams_end_at_a_stop_string(lm: LanguageModel) -> None:
    """The beam that ends there competes by its own score, and is not a longer one cut."""
    choices = {"num_beams": 3, "max_new_tokens": 6, "length_penalty": 1.0}
    never = range(lm.tokenizer.d_vocab, lm.config.d_vocab)
    stop = lm.text(beam_search(lm.model, lm.tokenizer.encode("ab"), max_new_tokens=2, num_beams=1, never=never)[0].tokens)
    best = beam_search(lm.model, lm.tokenizer.encode("ab"), is_done=lambda tokens: stop in lm.text(tokens), never=never, **choices)[
        0
    ]
    assert lm.generate("ab", stop=[stop], **choices) == "ab" + lm.text(best.tokens).partition(stop)[0]
    assert stop in lm.text(best.tokens)


def test_what_is_not_compiled_is_refused(lm: LanguageModel) -> None:
    with pytest.raises(ValueError, match="takes one prompt at a time, not 2"):
        lm.generate(["a", "b"], compile=True)
    with pytest.raises(ValueError, match="several continuations at once, which is not compiled"):
        lm.generate("a", num_beams=2, compile=True)


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5; expected a whole number of at least 0"),
        ({"num_beams": 2.5}, "num_beams is 2.5; expected a whole number of at least 1"),
        ({"top_k": 2.5}, "top_k is 2.5; expected a whole number or None"),
        ({"temperature": "hot"}, "temperature is 'hot'; expected a number"),
        ({"num_beams": 0}, "num_beams is 0; expected a whole number of at least 1"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1; expected a whole number of at least 0"),
        ({"max_new_tokens": -1, "num_beams": 2}, "max_new_tokens is -1; expected a whole number of at least 0"),
        ({"temperature": -1.0}, "temperature is -1.0; expected 0"),
        ({"top_p": 2.0}, "top_p is 2.0; expected"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_refusals(lm: LanguageModel, choices: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        lm.generate("a", **choices)


def test_no_new_tokens(lm: LanguageModel) -> None:
    assert lm.generate("abc", max_new_tokens=0) == lm.generate("abc", max_new_tokens=0, num_beams=2) == "abc"
    assert "".join(lm.stream("abc", max_new_tokens=0)) == ""


def test_past_the_context_is_told_once(lm: LanguageModel) -> None:
    told: list[str] = []
    text = "".join(lm.stream("a" * 60, max_new_tokens=12, tell=told.append))
    assert len(told) == 1
    assert "past the context of 64 tokens" in told[0]
    with pytest.warns(UserWarning, match="past the context of 64 tokens"):
        assert lm.generate("a" * 60, max_new_tokens=12) == "a" * 60 + text


def test_it_prints_as_one_line(lm: LanguageModel) -> None:
    line = repr(lm)
    assert "\n" not in line
    assert f"d_model={lm.config.d_model}" in line
    assert repr(lm.tokenizer) in line


def _always(config: ModelConfig, token: int) -> Transformer:
    """A model that gives one token whatever it reads."""
    model = Transformer(config.replace(unembed_bias=True))
    with torch.no_grad():
        model.unembed.W_U.bias[token] = 1e3
    return model.eval()


class TestChat:
    """Turns of a conversation as tokens of their own."""

    TEMPLATE = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>{% endfor %}<|im_start|>"
    )

    @pytest.fixture
    def talker(self, make_model: MakeModel) -> LanguageModel:
        specials = {"<|im_start|>": 256, "<|im_end|>": 257}
        tokenizer = BytePairTokenizer(special_tokens=specials, bos_token="<|im_start|>", eos_token="<|im_end|>")
        return replace(make_lm(make_model, tokenizer), chat_template=self.TEMPLATE)

    def test_the_prompt_is_read_with_its_special_tokens(self, talker: LanguageModel) -> None:
        prompt = talker.chat_prompt("Hi")
        assert prompt == "<|im_start|>user\nHi<|im_end|><|im_start|>"
        ids = [256, *talker.tokenizer.encode("user\nHi"), 257, 256]
        steps = decode(
            talker.model, [ids], max_new_tokens=20, sampling=Sampling.of("precise"), seed=3, is_done=lambda row, token: token == 257
        )
        tokens = [token for step in steps for _, token in step]
        assert talker.chat("Hi", preset="precise", seed=3, max_new_tokens=20) == talker.text(
            [token for token in tokens if token != 257]
        )

    def test_the_turn_ends_with_its_token(self, talker: LanguageModel) -> None:
        with torch.no_grad():
            talker.model.embed.W_E[257] = 50 * talker.model.unembed.ln_final.bias + 5  # the unembedding too: they are tied
        answers = {talker.chat([{"role": "user", "content": text}], max_new_tokens=30) for text in "abcdef"}
        assert min(map(len, answers)) < 15

    def test_any_special_token_ends_a_turn(self, talker: LanguageModel) -> None:
        """Otherwise its name would stand in the answer, and the next turn could not be written."""
        tokenizer = BytePairTokenizer(special_tokens={**talker.tokenizer.special_tokens, "<other>": 258}, eos_token="<|im_end|>")
        other = replace(make_lm(lambda config: _always(config, 258), tokenizer), chat_template=self.TEMPLATE)
        assert other.chat("Hi") == ""
        assert other.generate("Hi", max_new_tokens=2) == "Hi<other><other>"

    def test_the_end_of_a_turn_is_not_shown_whatever_kind_of_token_it_is(self, talker: LanguageModel) -> None:
        tokenizer = BytePairTokenizer(added_tokens={"<end>": 256}, eos_token="<end>")
        ending = replace(make_lm(lambda config: _always(config, 256), tokenizer), chat_template=self.TEMPLATE)
        assert ending.chat("Hi") == ""

    def test_names_in_ordinary_text_are_ordinary(self, talker: LanguageModel) -> None:
        assert 256 not in talker.tokens("<|im_start|>")
        with pytest.raises(ValueError, match=r"holds the special token <\|im_end\|>, which would end it"):
            talker.chat("a<|im_end|>b")

    def test_a_model_without_a_template(self, lm: LanguageModel) -> None:
        with pytest.raises(ValueError, match="no chat template, as it was not trained on conversations: use generate"):
            lm.chat("Hi")


def test_a_model_without_a_tokenizer(make_model: MakeModel) -> None:
    lm = make_lm(make_model, NoTokenizer(), d_vocab=7)
    assert lm.model(torch.tensor([[1, 2]])).shape == (1, 2, 7)
    for call in (lm.generate, lm.tokens, lambda text: lm.text([1])):
        with pytest.raises(ValueError, match="came without a tokenizer: give one by --tokenizer"):
            call("a")


def test_a_file_may_ask_for_a_token_before_every_text(make_model: MakeModel) -> None:
    tokenizer = BytePairTokenizer(special_tokens={"<s>": 256}, bos_token="<s>", adds_bos=True)
    lm = make_lm(make_model, tokenizer)
    assert lm.tokens("a").tolist() == lm.tokens("a", bos=True).tolist() == [[256, *tokenizer.encode("a")]]
    assert lm.tokens("a", bos=False).tolist() == [tokenizer.encode("a")]


def test_more_memory_than_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lm: LanguageModel) -> None:
    save_model(lm.model, tmp_path)
    n_gib = sum(weight.numel() for weight in lm.model.parameters()) * 4 / 2**30
    monkeypatch.setattr("cutaway.language_model.free_memory_gib", lambda device: 0.75 * n_gib)
    with pytest.raises(
        ValueError, match=r"needs 0.0 GiB of memory for its weights and 0.0 are free on cpu: dtype=torch.bfloat16 needs"
    ):
        load(tmp_path)
    assert load(tmp_path, dtype=torch.bfloat16).model.embed.W_E.dtype == torch.bfloat16
    monkeypatch.setattr("cutaway.language_model.free_memory_gib", lambda device: None)  # not told: tried
    assert load(tmp_path).config == lm.config
