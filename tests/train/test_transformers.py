"""Models of transformers with binary weights: `fit`, loops of others, checkpointed, compiled and generating."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import onebit
from onebit.__main__ import main
from onebit.errors import UsageError
from onebit.quantizers import WEIGHT_QUANTIZERS
from support.language_models import NIGHTLY, SIZES, make_model
from support.rank_agents import Agents

pytestmark = NIGHTLY
COUNTING = np.arange(64 * 16).reshape(64, 16) % 13
TOKENS = torch.from_numpy(COUNTING[:4])


def binary_model(kind: str = "llama") -> Any:
    model = make_model(kind)
    onebit.binarize_(model, weight_quantizer="magnitude_aware")
    return model


def optimizer_of(model: Any) -> torch.optim.Optimizer:
    return onebit.clip_latents_(torch.optim.AdamW(onebit.latent_groups(model, lr=3e-3)))


def perplexity(model: Any) -> float:
    return onebit.evaluate(model, COUNTING, loss="next_token", verbose=False).metrics["perplexity"]


def bytes_of(tensor: torch.Tensor) -> int:
    """The memory of a tensor; those of torchao consist of several."""
    parts = [getattr(tensor, name) for name in getattr(tensor, "tensor_attrs", [])] or [tensor]
    return sum(part.numel() * part.element_size() for part in parts)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_fit_and_evaluate_take_the_model_itself(kind: str) -> None:
    model = binary_model(kind)
    assert perplexity(model) > SIZES["vocab_size"] / 2
    history = onebit.fit(
        model, COUNTING, optimizer_of(model), epochs=8, batch_size=16, loss="next_token", validation=COUNTING
    )
    assert perplexity(model) < 4
    assert history.rows[-1].validation_metrics["perplexity"] == pytest.approx(perplexity(model), rel=0.1)
    with torch.no_grad():
        own = model(TOKENS, labels=TOKENS).loss.item()
    assert onebit.evaluate(model, TOKENS, loss="next_token").loss == pytest.approx(own, rel=1e-4)


def test_the_trainer_of_transformers_trains_it(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    model = binary_model()
    rows: Any = [{"input_ids": row, "labels": row} for row in torch.from_numpy(COUNTING)]
    before = perplexity(model)
    arguments = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=16, num_train_epochs=8, use_cpu=True, report_to=[],
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=rows, optimizers=(optimizer_of(model), None)).train()
    assert perplexity(model.eval()) < before / 8
    model.config.quantization_config = onebit.quantizer_config(model)
    model.save_pretrained(tmp_path / "saved")
    onebit.register_transformers()
    again = type(model).from_pretrained(tmp_path / "saved")
    assert torch.equal(again(TOKENS).logits, model(TOKENS).logits)
    Trainer(again, arguments, train_dataset=rows, optimizers=(optimizer_of(again), None)).train()
    assert perplexity(again.eval()) < perplexity(model)


@pytest.mark.parametrize(("inputs", "embeddings"), [(None, False), (None, True), ("int8", False)])
@pytest.mark.parametrize("quantizer", [*WEIGHT_QUANTIZERS])
def test_from_pretrained_gives_the_binary_layers(
    tmp_path: Path, quantizer: str, inputs: str | None, embeddings: bool
) -> None:
    """The same logits and gradients, from several files, and the same folder when it is saved again."""
    from transformers import AutoModelForCausalLM

    onebit.register_transformers()
    model = make_model()
    onebit.binarize_(model, weight_quantizer=quantizer, input_quantizer=inputs, embeddings=embeddings)
    model.train()(TOKENS)  # begins the ranges of inputs
    model.config.quantization_config = onebit.quantizer_config(model)
    model.save_pretrained(tmp_path / "1", max_shard_size="200KB")
    again, info = AutoModelForCausalLM.from_pretrained(tmp_path / "1", output_loading_info=True)
    assert all("lm_head.weight_quantizer" in key for keys in info.values() for key in keys)  # that of the embedding
    assert torch.equal(again(TOKENS).logits, model.eval()(TOKENS).logits)
    assert again.config.quantization_config == model.config.quantization_config
    losses = []
    for one in (model, again):
        torch.manual_seed(0)
        losses.append(one.train()(TOKENS, labels=TOKENS).loss)
        losses[-1].backward()
    for ours, theirs in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad) if theirs.grad is not None else ours.grad is None
    again.float().save_pretrained(tmp_path / "2", max_shard_size="200KB")
    for path in (tmp_path / "1").iterdir():
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes()


def test_latents_are_named_and_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the registration transformers only logs the name, but nothing of onebit takes the latents for weights."""
    from transformers import AutoModelForCausalLM, LlamaModel
    from transformers.quantizers import auto

    model, warned = binary_model(), list[str]()
    model.config.quantization_config = onebit.quantizer_config(model)
    model.save_pretrained(tmp_path)
    for table in (auto.AUTO_QUANTIZER_MAPPING, auto.AUTO_QUANTIZATION_CONFIG_MAPPING):
        monkeypatch.delitem(table, "onebit", raising=False)
    monkeypatch.setattr(auto.logger, "warning", warned.append)
    latents = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert "onebit" in warned[0]
    with pytest.raises(UsageError, match="latents"):
        perplexity(latents)
    onebit.binarize_from_config_(latents)
    assert perplexity(latents) == perplexity(model)
    onebit.register_transformers()
    with pytest.raises(UsageError, match="real"):  # its layers have other names
        LlamaModel.from_pretrained(tmp_path)


def test_the_command_line_gives_the_perplexity_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = binary_model()
    model.config.quantization_config = onebit.quantizer_config(model)
    model.save_pretrained(tmp_path)
    np.save(tmp_path / "tokens.npy", COUNTING)
    arguments = ["evaluate", str(tmp_path), "--data", str(tmp_path / "tokens.npy")]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["count"], found["metrics"]["perplexity"]) == (64 * 15, perplexity(model))
    assert main([*arguments, "--weights", "latent"]) == 0
    assert "(960 tokens; latent weights)" in capsys.readouterr().out
    assert main(arguments[:2]) == 2


def test_two_processes_that_share_the_parameters_train_it_to_the_same_bits(agents: Agents, tmp_path: Path) -> None:
    from support.sharded_llamas import QUANTIZERS, train_llama

    ended = agents.launch("support.sharded_llamas:train_in_ranks", tmp_path).end()
    assert ended.status == 0, ended.err
    found = torch.load(tmp_path / "parameters")
    for quantizer in QUANTIZERS:
        expected = train_llama(quantizer)
        assert found[quantizer].keys() == expected.keys()
        assert all(torch.equal(found[quantizer][name], parameter) for name, parameter in expected.items()), quantizer


@pytest.mark.filterwarnings("ignore")  # of torchao as it is imported
@pytest.mark.parametrize(
    ("name", "most", "memory"),
    [("AdamW", 1.05, 12), ("AdamW8bit", 1.05, 6.13), ("AdamW4bit", 1.1, 5.07), ("_AdamW", 1.05, 6)],
)
def test_optimizers_of_fewer_bits_train_it(name: str, most: float, memory: float) -> None:
    """`memory` is in bytes of a latent with its state."""
    kinds = pytest.importorskip("torchao.optim", reason="make build/language")
    model, options = binary_model(), {}
    if name == "_AdamW":
        model, options = model.to(torch.bfloat16), {"bf16_stochastic_round": True}
    kind = getattr(torch.optim if name == "AdamW" else kinds, name)
    optimizer = onebit.clip_latents_(kind(onebit.latent_groups(model, lr=3e-3), **options))
    torch.manual_seed(0)
    torch.compiler.set_stance("force_eager")  # a minute less
    try:
        onebit.fit(model, COUNTING, optimizer, epochs=8, batch_size=16, loss="next_token")
    finally:
        torch.compiler.set_stance("default")
    assert perplexity(model) < most
    latents = [layer.weight for _, layer in onebit.layers.binary_layers(model)]
    tensors = [tensor for latent in latents for tensor in (latent, *optimizer.state[latent].values())]
    assert sum(map(bytes_of, tensors)) / sum(latent.numel() for latent in latents) == pytest.approx(memory, rel=0.01)
    assert max(float(latent.detach().abs().max()) for latent in latents) <= 1


def test_checkpointed_activations_have_the_same_gradients() -> None:
    found = []
    for checkpointed in (False, True):
        model = binary_model().train()
        if checkpointed:
            model.activation_checkpointing_enable()
        model(TOKENS, labels=TOKENS).loss.backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in found[0].items():
        assert gradient is not None
        torch.testing.assert_close(found[1][name], gradient, msg=name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler itself
def test_a_compiled_model_has_the_same_loss_and_gradients() -> None:
    model = binary_model().train()
    for run in (model, torch.compile(model)):
        model.zero_grad()
        run(TOKENS, labels=TOKENS).loss.backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        if run is model:
            expected = gradients
    torch.testing.assert_close(gradients, expected, rtol=1e-3, atol=1e-5)


def test_a_cache_does_not_change_what_is_generated() -> None:
    model = binary_model()
    options: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": 95}
    with torch.no_grad():
        assert torch.equal(model.generate(TOKENS, **options), model.generate(TOKENS, use_cache=False, **options))
