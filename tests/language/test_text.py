"""Tokens, sampling, streams and chats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onebit.errors import FormatError, UsageError
from onebit.language import LanguageModel, Sampling, load_language_model
from onebit.language.chat import render
from support.gguf_models import ENDS, TEMPLATE, write_model

LOGITS = np.random.default_rng(0).normal(0, 3, 1000).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    from benchmarks.random_gguf import ALPHABET

    pytest.importorskip("tokenizers")
    tokens = [*ALPHABET, "ab", "Ġa", ENDS, "<|user|>", "<|assistant|>", "<note>"]
    types = [1] * 258 + [3] * 3 + [4]
    facts = {"tokenizer.ggml.eos_token_id": 258, "tokenizer.chat_template": TEMPLATE}
    path = tmp_path_factory.mktemp("model") / "x.gguf"
    shape = (128, 128, 1, 2, 1, 64, len(tokens))
    write_model(path, shape, tokens=tokens, types=types, merges=["a b", "Ġ a"], facts=facts)
    return load_language_model(path, threads=1, context=600)


def brute_force(logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float) -> np.ndarray:
    """The probabilities of tokens by the definitions, one filter after the other."""
    p = np.exp((logits - logits.max()) / temperature, dtype=np.float64)
    if top_k:
        p[np.argsort(-p, kind="stable")[top_k:]] = 0
    order = np.argsort(-p, kind="stable")
    before = (np.cumsum(p[order]) - p[order]) / p.sum()
    p[order[before >= top_p]] = 0
    p[p < min_p * p.max()] = 0
    return p / p.sum()


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0},
        {"temperature": 0.7, "top_p": 0.9},
        {"temperature": 5.0, "top_p": 0.95},  # more tokens than are sorted first
        {"temperature": 1.3, "top_k": 7},
        {"temperature": 1.0, "top_k": 20, "top_p": 0.8, "min_p": 0.1},
        {"temperature": 2.0, "min_p": 0.05},
    ],
)
def test_tokens_are_drawn_with_their_probabilities(options: dict[str, Any]) -> None:
    expected = brute_force(LOGITS, **{"top_k": 0, "top_p": 1.0, "min_p": 0.0, **options})
    sampling, count = Sampling(seed=1, **options), 4000
    drawn = np.bincount([sampling.choose(LOGITS, []) for _ in range(count)], minlength=len(LOGITS))
    assert not drawn[expected == 0].any()
    deviation = (drawn - count * expected) / np.sqrt(count * expected * (1 - expected) + 1e-9)
    assert np.abs(deviation[expected > 0.01]).max(initial=0) < 4.5


def test_zero_temperature_is_greedy_and_seeds_repeat() -> None:
    assert Sampling().choose(LOGITS, []) == LOGITS.argmax() == Sampling(temperature=9, top_k=1).choose(LOGITS, [])
    runs = [[Sampling(temperature=1, seed=seed).choose(LOGITS, []) for seed in range(20)] for _ in range(2)]
    assert runs[0] == runs[1]
    assert len({*runs[0]}) > 5


def test_a_penalty_divides_positive_and_multiplies_negative_logits() -> None:
    logits = np.float32([2.0, 1.9, -1.0])
    assert Sampling(repetition_penalty=1.2).choose(logits, [0, 0]) == 1
    assert Sampling(repetition_penalty=1.2).choose(-logits, [2]) == 2
    assert logits[0] == 2.0
    with pytest.raises(UsageError, match="finite"):
        Sampling().choose(np.float32([np.nan, 1]), [])
    for wrong in ({"temperature": -1}, {"top_p": 1.5}, {"repetition_penalty": 0}, {"temperature": float("nan")}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            Sampling(**wrong)


def test_text_to_tokens_and_back(model: LanguageModel) -> None:
    assert model.encode("ab a") == [256, 257]
    for text in ("naïve 你好 😀\n\t", "", "a<|user|>b", "x<note>y"):
        assert model.decode(model.encode(text)) == text.replace("<|user|>", "")
    assert model.encode(f"a{ENDS}") == [*model.encode("a"), 258]


def test_a_stream_holds_back_what_is_not_complete(model: LanguageModel) -> None:
    def stream(text: str, *stops: str) -> list[str]:
        return list(model.tokenizer.stream(iter(model.encode(text)), stops))

    assert stream("é😀x") == ["é", "😀", "x"]
    assert "".join(stream("one STOP two", "STOP")) == "one "
    assert "".join(stream("one STO two", "STOP")) == "one STO two"
    assert "".join(stream("one STO", "STOP")) == "one STO"
    assert stream("xyz", "z", "y")[-1] == "x"
    broken = model.encode("😀")[:2]
    assert list(model.tokenizer.stream(iter(broken))) == ["\ufffd"]


def test_generation_reuses_what_was_read_and_ends_at_the_context(model: LanguageModel) -> None:
    first = model.encode("Once upon a time")
    options = {"temperature": 1.5, "seed": 3}
    tokens = list(model.tokens(first, Sampling(**options), 20))
    assert len(tokens) == 20 or tokens  # may end by itself
    model._read = []
    assert list(model.tokens(first, Sampling(**options), 20)) == tokens
    calls: list[int] = []
    run = model.decoder.run
    model.decoder.run = lambda ids, position, **more: calls.append(len(ids)) or run(ids, position, **more)
    try:
        again = list(model.tokens(first + tokens[:5] + model.encode("!"), Sampling(), 1))
        assert len(again) <= 1
        assert calls == [1]
        assert len(list(model.tokens([1] * 598, Sampling(repetition_penalty=1.1)))) <= 2
    finally:
        del model.decoder.run
    for wrong in ([], [1] * 601, [-1], [10**6]):
        with pytest.raises(UsageError, match="token"):
            model.generate(wrong)


def test_probabilities_and_loss(model: LanguageModel) -> None:
    tokens = model.encode("a sentence of some length" * 5)
    log_p = model.log_probabilities(tokens)
    assert log_p.shape == (len(tokens), model.net.vocabulary)
    np.testing.assert_allclose(np.exp(log_p.astype(np.float64)).sum(1), 1, rtol=1e-5)
    loss, count = model.loss(tokens)
    expected = -sum(float(log_p[n, token]) for n, token in enumerate(tokens[1:]))
    assert (loss, count) == (pytest.approx(expected), len(tokens) - 1)


def test_templates_of_chats(model: LanguageModel) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    assert model.prompt(messages) == f"<|user|>Hi{ENDS}<|assistant|>"
    facts = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": 259}
    file = model.tokenizer._file
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.tokenizer, "_file", file._replace(facts=file.facts | facts))
        assert model.encode(model.prompt(messages))[:3] == [259, *model.encode("Hi")[1:3]]  # begins once
    assert render("{{ bos_token }}{{ messages[0].content | trim }}{{ x }}", messages, bos_token="<s>", x=1) == "<s>Hi1"
    assert render("{{ {'é': 1} | tojson }}", []) == '{"é": 1}'


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='x' * 1000) %}{% for a in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{{ 'x' * 10000000000 }}",
        "{% for a in range(99999) %}{{ 'x' * 100 }}{% endfor %}",
        "{{ raise_exception('no') }}",
        "{% include '/etc/passwd' %}",
        "{% if %}",
    ],
)
def test_a_hostile_template_is_refused(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onebit.language.chat.SECONDS", 1)
    with pytest.raises(FormatError, match="template"):
        render(template, [{"role": "user", "content": "x"}])
