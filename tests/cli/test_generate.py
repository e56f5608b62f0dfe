import io
import json
import shutil
import subprocess
import sys

import pytest

import cutaway as package
from cutaway import edits
from cutaway.assets import CATALOGUE
from cutaway.cli.generate import _OFFERED_SIZE
from cutaway.generation.strategies import STRATEGIES
from cutaway.runtime import seeded_generator
from cutaway.tokenizers import BytePairTokenizer
from cutaway.weights import save_hugging_face
from tiny_training import tiny_config, write_text


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTAWAY_CACHE", str(home / "cache"))
        return package.train(tiny_config(write_text(home), out=str(home / "run"), n_steps=30, learning_rate=0.02), quiet=True)


@pytest.fixture
def run(trained, tmp_path):
    """The latest run of this test's folder of runs."""
    return shutil.copytree(trained, tmp_path / "runs/play")


@pytest.fixture
def lm(run):
    return package.load(run)


def test_the_latest_run_goes_on_as_the_library_does(cutaway, lm, run):
    code, out, err = cutaway("generate", "the king", "--max-new-tokens", "8", "--seed", "3")
    assert (code, err) == (0, f"{run}\n\n")
    assert out == lm.generate("the king", max_new_tokens=8, seed=3) + "\n"
    assert cutaway("generate", "the king", "--max-new-tokens", "8", "--seed", "3")[1] == out


@pytest.mark.parametrize("source", ["play", "runs/play", "runs/play/checkpoints/step-000003"])
def test_a_model_has_a_name_or_a_path(cutaway, run, source):
    code, out, err = cutaway("generate", "the", "--model", source, "--max-new-tokens", "4")
    assert (code, err) == (0, f"{source}\n\n")
    assert out == package.load(source).generate("the", max_new_tokens=4) + "\n"


def test_seeds_presets_and_options_change_the_text(cutaway, lm):
    arguments = {
        (): {},
        ("--seed", "5"): {"seed": 5},
        ("--preset", "creative"): {"preset": "creative"},
        ("--temperature", "0"): {"temperature": 0.0},
        ("--temperature", "2", "--top-k", "2"): {"temperature": 2.0, "top_k": 2},
        ("--repetition-penalty", "3"): {"repetition_penalty": 3.0},
        ("--num-beams", "3"): {"num_beams": 3},
    }
    texts = []
    for given, options in arguments.items():
        code, out, _ = cutaway("generate", "the", "--max-new-tokens", "12", *given)
        assert code == 0
        assert out == lm.generate("the", max_new_tokens=12, **options) + "\n"
        texts.append(out)
    assert len(set(texts)) >= 5


def test_several_prompts_and_json(cutaway, lm):
    arguments = ("generate", "the king", "a fool", "--max-new-tokens", "7")
    texts = lm.generate(["the king", "a fool"], max_new_tokens=7)
    assert cutaway(*arguments)[1] == "\n\n".join(texts) + "\n"
    code, out, _ = cutaway(*arguments, "--json")
    assert code == 0
    assert json.loads(out) == [{"prompt": "the king", "text": texts[0]}, {"prompt": "a fool", "text": texts[1]}]
    assert json.loads(cutaway(*arguments[:2], "--json")[1])[0]["prompt"] == "the king"


def test_a_newline_is_the_prompt_unless_one_is_given(cutaway, lm):
    assert cutaway("generate", "--max-new-tokens", "5")[1] == lm.generate("\n", max_new_tokens=5) + "\n"


def test_it_stops_before_a_stop_text(cutaway, lm):
    with pytest.warns(UserWarning, match="past the context"):
        whole = lm.generate("the king", max_new_tokens=60, seed=1)
    stop = whole[20:22]
    expected = whole[: whole.index(stop, len("the king"))]
    assert cutaway("generate", "the king", "--max-new-tokens", "60", "--seed", "1", "--stop", stop)[1] == expected + "\n"


def test_past_the_context_is_said_once_in_a_sentence(cutaway, run):
    for arguments in (["the"], ["the", "--json"], ["the", "a"], ["the", "--compare"]):
        code, _, err = cutaway("generate", *arguments, "--max-new-tokens", "30")
        assert code == 0
        assert err.count("past the context of 16 tokens") == 1
        assert ".py" not in err


@pytest.mark.parametrize(("columns", "most_lines"), [(60, 60), (80, 40), (160, 25)])
def test_compare_shows_every_strategy_on_a_screen_or_two(cutaway, lm, monkeypatch, columns, most_lines):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, _ = cutaway("generate", "the king", "--compare")
    assert code == 0
    assert max(len(line.rstrip()) for line in out.splitlines()) <= columns
    assert len(out.splitlines()) <= most_lines
    assert "…" not in out
    assert out.startswith("'the king' goes on  60 tokens, seed 0; ↵ is a new line\n")
    if columns == 160:
        assert out.splitlines()[2].split() == ["strategy", "text"] * 2, "two tables side by side"
        return
    assert all(name in " ".join(out.split()) for name in ("greedy", "top-k 10", "top-p 0.9", "min-p 0.1", "balanced"))
    _, out, _ = cutaway("generate", "the king", "--compare", "--max-new-tokens", "9", "--json")
    found = {each["strategy"]: each["text"] for each in json.loads(out)}
    assert found == {name: lm.generate("the king", max_new_tokens=9, **options) for name, options in STRATEGIES.items()}


def test_what_there_is_to_say_does_not_come_in_the_middle_of_the_text(cutaway, run):
    done = subprocess.run(
        [sys.executable, "-m", "cutaway", "generate", "the", "--max-new-tokens", "40"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=True,
    )
    text, _, said = done.stdout.removesuffix("]\n").rpartition("[")
    assert text == f"{run}\n\n" + cutaway("generate", "the", "--max-new-tokens", "40")[1]
    assert said.startswith("past the context of 16 tokens")


@pytest.mark.parametrize("arguments", [["ÜBER"], ["ÜBER", "a"], ["ÜBER", "--compare"], ["a", "--num-beams", "0"], ["a", "--chat"]])
def test_no_heading_stands_above_a_failure(cutaway, run, arguments):
    code, out, err = cutaway("generate", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("cutaway: ")


def test_several_stop_texts_are_given_one_by_one(cutaway, lm):
    arguments = ("generate", "--max-new-tokens", "60", "--seed", "1", "--stop", "e", "--stop", "a", "the king")
    expected = lm.generate("the king", max_new_tokens=60, seed=1, stop=("e", "a"))
    assert cutaway(*arguments)[1] == expected + "\n"


def test_interactive_reads_prompts_until_an_empty_line(cutaway, lm, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("the king\na fool\n\nnever read\n"))
    code, out, _ = cutaway("generate", "--interactive", "--max-new-tokens", "6")
    assert code == 0
    assert out == "".join(lm.generate(prompt, max_new_tokens=6) + "\n" for prompt in ("the king", "a fool"))


def test_interactive_goes_on_after_a_prompt_that_cannot_be_read(cutaway, lm, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("ÜBER\na fool\n"))
    code, out, err = cutaway("generate", "--interactive", "--max-new-tokens", "6")
    assert code == 0
    assert out == lm.generate("a fool", max_new_tokens=6) + "\n"
    assert "the character(s) 'B', 'E', 'R', 'Ü' are not among" in err


def test_random_weights_need_no_run(cutaway, tmp_path):
    arguments = ("generate", "ROMEO:", "--random", "shakespeare-char", "--max-new-tokens", "20")
    code, out, err = cutaway(*arguments)
    assert (code, err) == (0, "")
    assert out.startswith("ROMEO:")
    assert len(out) == len("ROMEO:") + 20 + 1
    assert cutaway(*arguments)[1] == out
    assert cutaway(*arguments, "--seed", "1")[1] != out
    assert not (tmp_path / "runs").exists()


class TestConversations:
    """A model trained on conversations, in a Hugging Face folder with its template."""

    TEMPLATE = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}<|assistant|>"

    @pytest.fixture
    def talker(self, tmp_path):
        specials = {"<|user|>": 256, "<|assistant|>": 257, "<|end|>": 258}
        tokenizer = BytePairTokenizer(special_tokens=specials, eos_token="<|end|>")
        config = package.ModelConfig(d_vocab=tokenizer.d_vocab, n_ctx=128, n_layers=1, n_heads=2, d_model=16)
        model = package.Transformer(config, generator=seeded_generator(0))
        save_hugging_face(package.LanguageModel(model, tokenizer, self.TEMPLATE), tmp_path / "talker")
        return package.load(tmp_path / "talker")

    def test_the_answer_stands_below_all_that_was_read(self, cutaway, talker):
        code, out, err = cutaway("generate", "Hi", "--chat", "--model", "talker", "--max-new-tokens", "5", "--seed", "2")
        assert (code, err) == (0, "talker\n\n<|user|>Hi<|assistant|>\n")
        assert out == talker.chat("Hi", max_new_tokens=5, seed=2) + "\n"

    def test_each_message_follows_all_before(self, cutaway, talker, monkeypatch):
        monkeypatch.setattr("sys.stdin", io.StringIO("Hi\n<|end|>\nWhy?\n\n"))
        code, out, err = cutaway("generate", "--chat", "--interactive", "--model", "talker", "--max-new-tokens", "4")
        assert code == 0
        assert "message 3 holds the special token <|end|>, which would end it" in err
        first = talker.chat("Hi", max_new_tokens=4)
        talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": first}, {"role": "user", "content": "Why?"}]
        second = talker.chat(talk, max_new_tokens=4)
        assert out == f"{first}\n{second}\n"
        assert err.startswith("talker\n\n<|user|>Hi<|assistant|>\n[")
        assert err.endswith("]\n<|user|>Why?<|assistant|>\n")

    def test_a_model_without_a_template(self, cutaway, run):
        code, _, err = cutaway("generate", "Hi", "--chat")
        assert code == 2
        assert "no chat template, as it was not trained on conversations: use generate" in err

    @pytest.mark.parametrize(
        "arguments", [["--chat"], ["a", "b", "--chat"], ["a", "--chat", "--compare"], ["a", "--chat", "--json"]], ids=" ".join
    )
    def test_what_does_not_go_together(self, cutaway, talker, arguments):
        code, out, err = cutaway("generate", *arguments, "--model", "talker")
        assert (code, out) == (2, "")
        assert err.count("\n") == 1


class TestTheOffer:
    """Where there is no run, a pretrained model is offered."""

    SENTENCE = "there is no run yet: make one by `cutaway demo`, or take a pretrained model (93 MB to fetch"

    def test_its_size_is_the_catalogue_s(self):
        """What is unpacked stays beside the file that it was made of."""
        asset = CATALOGUE["smollm2-135m"]
        n_fetched, n_kept = asset.files[0].sources[0].package.n_bytes, asset.n_bytes + asset.memory_bytes
        assert f"{n_fetched / 1e6:.0f} MB to fetch, {n_kept / 1e6:.0f} MB of disk once unpacked" == _OFFERED_SIZE

    def test_nobody_can_be_asked(self, cutaway):
        code, _, err = cutaway("generate", "Hello")
        assert code == 2
        assert self.SENTENCE in err

    @pytest.mark.parametrize(
        ("answer", "code", "sentence"),
        [(False, 2, SENTENCE), (EOFError(), 2, SENTENCE), (KeyboardInterrupt(), 130, "interrupted")],
        ids=["no", "Ctrl-D", "Ctrl-C"],
    )
    def test_it_is_not_taken(self, cutaway, monkeypatch, answer, code, sentence):
        asked = []

        class Question:
            def unsafe_ask(self):
                if isinstance(answer, BaseException):
                    raise answer
                return answer

        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("questionary.confirm", lambda question, default: asked.append(question) or Question())
        found, out, err = cutaway("generate", "Hello")
        assert (found, out) == (code, "")
        assert sentence in err
        assert "93 MB" in asked[0]


def test_text_is_generated_under_edits(cutaway, lm, run, tmp_path):
    made = [edits.zero("blocks.0.attn_out"), edits.scale("blocks.0.mlp_out", 3.0, pos=[2, 9])]
    (tmp_path / "edits.json").write_text(json.dumps([each.to_dict() for each in made]))
    options = ["--edit", "edits.json", "--max-new-tokens", "6", "--temperature", "0"]
    for more, edit_prompt, said in [
        ([], True, "read under them too"),
        (["--no-edit-prompt"], False, "is read as it is, and they begin"),
    ]:
        expected = package.generate_with_edits(lm, "the king", made, edit_prompt=edit_prompt, max_new_tokens=6, temperature=0.0)
        code, out, err = cutaway("generate", "the king", *options, *more)
        assert (code, out) == (0, expected + "\n"), err
        assert "edits: zero blocks.0.attn_out; scale by 3 blocks.0.mlp_out (pos [2, 9]); the prompt" in err
        assert said in " ".join(err.split())
        found = json.loads(cutaway("generate", "the king", "a", *options, *more, "--json")[1])
        assert (found[0]["text"], found[0]["edit_prompt"], len(found)) == (expected, edit_prompt, 2)
        assert found[1]["edits"] == list(map(str, made))


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ("[", [], "edits.json is no JSON"),
        ("[]", [], "edits.json holds no edits"),
        ('[{"kind": "zap", "name": "embed"}]', [], "edits.json: an edit's kind is 'zap'"),
        ('[{"kind": "zero", "name": "blocks.7.attn_out"}]', [], "computes no 'blocks.7.attn_out'"),
        ('[{"kind": "zero", "name": "blocks.0.attn_out"}]', ["--compare"], "--edit and --compare do not go together"),
        (None, ["--no-edit-prompt"], "edits.json"),
    ],
)
def test_edits_that_cannot_be_read_are_said(cutaway, run, tmp_path, content, options, said):
    if content is not None:
        (tmp_path / "edits.json").write_text(content)
    code, out, err = cutaway("generate", "the king", "--edit", "edits.json", *options)
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())
    code, out, err = cutaway("generate", "the king", "--no-edit-prompt")
    assert (code, out) == (2, "")
    assert "give --edit with it" in err


@pytest.mark.parametrize("name", ["smollm2-135m", "induction-2l"])
def test_a_model_is_not_taken_for_a_prompt(cutaway, name):
    code, out, err = cutaway("generate", name, "Once upon a time")
    assert (code, out) == (2, "")
    assert f"give --model {name}" in err


def test_a_prompt_may_be_long_or_a_folders_name(cutaway, run, tmp_path):
    (tmp_path / "the").mkdir()
    for prompt in ("the king " * 60, "the"):
        code, out, _ = cutaway("generate", prompt, "--max-new-tokens", "2")
        assert code == 0
        assert out.startswith(prompt)
