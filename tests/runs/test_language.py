"""Language models to GGUF and back: the file holds what ships; what llama.cpp would compute differently is refused."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import onebit
from onebit.errors import CheckpointError, FormatError, OnebitError, UnknownNameError, UsageError
from onebit.packed import Card
from onebit.packed.gguf_file import pack_q1_0, read_gguf
from onebit.quantizers import WEIGHT_QUANTIZERS, Quantizer
from onebit.runs.language import read_pretrained
from support.stand_in_models import HEADS, KEYS, TOKENS, Groups, language_model, save_pretrained

gguf = pytest.importorskip("gguf")

QUERY = "model.layers.1.self_attn.q_proj"


def of_transformers(name: str, x: np.ndarray) -> np.ndarray:
    """Rows of q and k: llama.cpp turns neighbors, transformers row i of a head with row i of its second half."""
    heads = HEADS if "attn_q" in name else KEYS
    size = len(x) // heads
    places = [head * size + 2 * (i % (size // 2)) + i // (size // 2) for head in range(heads) for i in range(size)]
    return x[places]


@pytest.mark.parametrize("quantizer", ["sign", "magnitude_aware", Groups])
@pytest.mark.parametrize(("kind", "tied", "bias"), [("llama", False, True), ("qwen3", True, False)])
def test_every_weight_of_the_file_is_that_of_the_model(
    tmp_path: Path, kind: str, tied: bool, bias: bool, quantizer: Any
) -> None:
    model = language_model(kind, quantizer=quantizer, tied=tied, bias=bias)
    made = onebit.export_gguf(model, tmp_path / "x.gguf", rest="f32")
    file = read_gguf(tmp_path / "x.gguf")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[kind.upper()], 2)
    for name, parameter in model.named_parameters():
        place = names.get_name(name, (".weight", ".bias"))
        layer = model.get_submodule(name.rpartition(".")[0])
        binary = isinstance(layer, onebit.BinaryLinear) and name.endswith("weight")
        expected = parameter
        if binary:
            signs, scale, _ = layer.binary_weight()
            scale = torch.ones(len(signs), 1) if scale is None else scale.half().float().view(len(signs), -1)
            expected = signs * scale.repeat_interleave(signs.shape[1] // scale.shape[1], 1)
        found = file.tensors.pop(place)
        assert found.kind == ("Q1_0" if binary else "F32")
        values = found.values()
        if kind == "llama" and ("attn_q" in place or "attn_k" in place):
            values = of_transformers(place, values)
        assert np.array_equal(values, expected.detach().numpy()), name
    assert not file.tensors
    assert made.tensors["Q1_0"] == (12, sum(p.numel() for n, p in model.named_parameters() if is_binary(n)))
    assert made.size == (tmp_path / "x.gguf").stat().st_size
    heads = ("attention.head_count", "attention.head_count_kv", "attention.key_length", "rope.freq_base")
    assert [file.facts[f"{kind}.{key}"] for key in heads] == [4, 2, 16, 10000]
    assert file.facts["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q1_0


def is_binary(name: str) -> bool:
    return "proj.weight" in name and "o_proj" not in name


@pytest.mark.parametrize("rest", ["q8_0", "f16", "bf16", "f32"])
@pytest.mark.parametrize("quantizer", ["sign", "xnor", Groups])
def test_export_load_export_gives_the_same_bytes(tmp_path: Path, quantizer: Any, rest: str) -> None:
    one, two = tmp_path / "1.gguf", tmp_path / "2.gguf"
    model = language_model(quantizer=quantizer, bias=True)
    onebit.export_gguf(model, one, rest=rest)
    other = language_model(quantizer=quantizer, bias=True, seed=1)
    assert onebit.load_gguf_(other, one) is other
    onebit.export_gguf(other, two, rest=rest)
    assert one.read_bytes() == two.read_bytes()
    latent = other.get_submodule(QUERY).weight
    if quantizer == "sign":  # at its start size
        assert latent.abs().unique().tolist() == [0.5]
    latent.grad = torch.ones_like(latent)
    torch.optim.SGD([latent], lr=10).step()  # it is still trained
    assert not torch.equal(latent.sign(), model.get_submodule(QUERY).weight.sign())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("quantizer", ["sign", "adabin", "xnor", Groups])
def test_a_model_is_one_bit_throughout(tmp_path: Path, quantizer: Any, tied: bool) -> None:
    """Embedding and head too: in the file, in the folder, and back in a model."""
    model = language_model(quantizer=quantizer, tied=tied, embeddings=True)
    if quantizer == "adabin":
        with pytest.raises(UsageError, match="centers"):
            onebit.export_gguf(model, tmp_path / "1.gguf")
        return
    made = onebit.export_gguf(model, tmp_path / "1.gguf")
    binary = [p for name, p in model.named_parameters() if p.dim() > 1 and "o_proj" not in name]
    assert made.tensors["Q1_0"] == (14 - tied, sum(p.numel() for p in binary))
    file = read_gguf(tmp_path / "1.gguf")
    signs, scale, _ = model.model.embed_tokens.binary_weight()
    scale = torch.ones(1) if scale is None else scale.view(-1, 1).half().float()
    assert np.array_equal(file.tensors["token_embd.weight"].values(), (signs * scale).detach().numpy())
    assert ("output.weight" in file.tensors) is not tied
    onebit.export_gguf(save_pretrained(model, tmp_path / "folder"), tmp_path / "2.gguf")
    again = onebit.load_gguf_(
        language_model(quantizer=quantizer, tied=tied, embeddings=True, seed=1), tmp_path / "1.gguf"
    )
    onebit.export_gguf(again, tmp_path / "3.gguf")
    assert (tmp_path / "1.gguf").read_bytes() == (tmp_path / "3.gguf").read_bytes()
    other = read_gguf(tmp_path / "2.gguf")
    assert file.tensors.keys() == other.tensors.keys()
    assert all(np.array_equal(x.data, other.tensors[name].data) for name, x in file.tensors.items())


def test_a_file_is_trained_further_and_only_what_was_trained_changes(tmp_path: Path) -> None:
    """With its tokenizer, into another model, where one layer is trained, and back."""
    one, two = tmp_path / "1.gguf", tmp_path / "2.gguf"
    options: dict[str, Any] = {"quantizer": partial(WEIGHT_QUANTIZERS["xnor"], group=128), "embeddings": True}
    onebit.export_gguf(language_model(tied=True, **options), one, tokenizer=tokenizer(tmp_path / "tokens"))
    model = onebit.load_gguf_(language_model(tied=True, seed=1, **options), one)
    layer = model.get_submodule(QUERY)
    optimizer = torch.optim.AdamW([layer.weight], lr=0.1)
    layer(torch.ones(1, 128)).sum().backward()
    optimizer.step()
    onebit.export_gguf(model, two, tokenizer=one)
    before, after = read_gguf(one), read_gguf(two)
    changed = [name for name, x in before.tensors.items() if not np.array_equal(x.data, after.tensors[name].data)]
    assert changed == ["blk.1.attn_q.weight"]
    assert before.facts == after.facts
    assert entries(one) == entries(two)
    onebit.export_gguf(model, tmp_path / "3.gguf")
    with pytest.raises(UsageError, match="tokens"):
        onebit.export_gguf(model, tmp_path / "4.gguf", tokenizer=tmp_path / "3.gguf")


def test_a_file_goes_into_a_model_without_binary_layers(tmp_path: Path) -> None:
    model = language_model(quantizer=Groups)
    onebit.export_gguf(model, tmp_path / "x.gguf", rest="f32")
    plain = onebit.load_gguf_(language_model(quantizer=None, seed=1), tmp_path / "x.gguf")
    signs, scale, _ = model.get_submodule(QUERY).binary_weight()
    assert torch.equal(plain.get_submodule(QUERY).weight, signs * scale)
    assert torch.equal(plain.model.norm.weight, model.model.norm.weight)


@pytest.mark.parametrize("quantizer", ["magnitude_aware", Groups])
def test_a_dense_model_becomes_the_same_blocks_in_llama_cpp(tmp_path: Path, quantizer: Any) -> None:
    """Its converter rounds the weights to fp16; its Q1_0 takes d = mean|w| and the sign of each."""
    model = language_model("qwen3", quantizer=quantizer)
    onebit.export_gguf(model, tmp_path / "x.gguf")
    file, weights = read_gguf(tmp_path / "x.gguf"), onebit.dense_(model).get_submodule(QUERY).weight
    assert type(model.get_submodule(QUERY)) is nn.Linear
    blocks = weights.detach().numpy().astype(np.float16).astype(np.float32).reshape(len(weights), -1, 128)
    scale = (np.abs(blocks).sum(2) / 128).astype(np.float16)
    expected = pack_q1_0(np.where(blocks >= 0, 1, -1).reshape(len(weights), -1), scale)
    assert np.array_equal(file.tensors["blk.1.attn_q.weight"].data, expected)


def test_latents_in_bfloat16_are_exported_as_they_are_used(tmp_path: Path) -> None:
    model = language_model("qwen3", quantizer=Groups).bfloat16()
    onebit.export_gguf(model, tmp_path / "x.gguf", rest="bf16")
    found = read_gguf(tmp_path / "x.gguf").tensors["blk.1.attn_q.weight"].values()
    signs, scale, _ = model.get_submodule(QUERY).binary_weight()
    assert np.array_equal(found, (signs.float() * scale.float()).detach().numpy())
    onebit.export_gguf(language_model("qwen3", quantizer=Groups), tmp_path / "x.gguf")
    with pytest.raises(CheckpointError, match="groups"):  # bfloat16 cannot hold every fp16 scale
        onebit.load_gguf_(model, tmp_path / "x.gguf")


@pytest.fixture
def file_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes the file of a model with other facts (None: without) and tensors, with the package gguf."""

    def write(model: Any, facts: dict[str, Any], tensors: dict[str, Any]) -> Path:
        def change(writer: Any, kind: int) -> None:
            for key, value in facts.items():
                writer.kv_data[0].pop(key, None)
                if value is not None:
                    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
                    {**kinds, str: writer.add_string, list: writer.add_array}[type(value)](key, value)
            for name, x in tensors.items():
                writer.add_tensor(name, np.asarray(x, np.float32))
            add(writer, kind)

        add = gguf.GGUFWriter.add_file_type
        with monkeypatch.context() as patch:
            patch.setattr(gguf.GGUFWriter, "add_file_type", change)
            onebit.export_gguf(model, tmp_path / "x.gguf", rest="f32")
        return tmp_path / "x.gguf"

    return write


ORDINARY: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"rope_freqs.weight": np.ones(8)}),
    ({"llama.attention.causal": True, "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 1.0}, {}),
    ({"llama.rope.freq_base": None, "llama.vocab_size": None, "llama.rope.dimension_count": None}, {}),
    (
        {
            "llama.context_length": 9,
            "general.size_label": "1M",
            "mamba.ssm.state_size": 3,
            "llama.rope.scaling.type": "none",
        },
        {},
    ),
]


@pytest.mark.parametrize(("facts", "tensors"), ORDINARY)
def test_files_that_compute_the_same_are_loaded(file_with: Any, facts: Any, tensors: Any) -> None:
    model = language_model(quantizer=Groups)
    path = file_with(model, facts, tensors)
    file = read_gguf(path)
    assert tensors.keys() <= file.tensors.keys()
    assert {key: file.facts.get(key) for key in facts} == facts
    other = onebit.load_gguf_(language_model(quantizer=Groups, seed=1), path)
    assert torch.equal(other.lm_head.weight, model.lm_head.weight)
    for mine, expected in zip(
        other.get_submodule(QUERY).binary_weight(), model.get_submodule(QUERY).binary_weight(), strict=True
    ):
        assert (mine is None and expected is None) or torch.equal(mine, expected.half().float())


OTHERWISE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "rope.scaling": ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}, {}),
    "rope.scaling.factor": ({"llama.rope.scaling.factor": 2.0}, {}),
    "rope_freqs": ({}, {"rope_freqs.weight": [1.0] * 7 + [8.0]}),
    "rope_factors_long": ({}, {"rope_factors_long.weight": [1.0] * 8}),
    "causal": ({"llama.attention.causal": False}, {}),
    "sliding_window": ({"llama.attention.sliding_window": 16}, {}),
    "expert_count": ({"llama.expert_count": 8}, {}),
    "logit_scale": ({"llama.logit_scale": 0.5}, {}),
    "head_count": ({"llama.attention.head_count": [4, 4]}, {}),  # one of each layer
    "rms_epsilon": ({"llama.attention.layer_norm_rms_epsilon": 1e-5}, {}),
    "dimension_count": ({"llama.rope.dimension_count": 8}, {}),
    "scale": ({}, {"blk.0.attn_q.scale": [2.0]}),
    "mistral": ({"general.architecture": "mistral"}, {}),
}


@pytest.mark.parametrize("noun", OTHERWISE)
def test_files_that_compute_otherwise_are_refused_by_name(file_with: Any, noun: str) -> None:
    path = file_with(language_model(quantizer=Groups), *OTHERWISE[noun])
    other = language_model(quantizer=Groups, seed=1)
    before = other.lm_head.weight.clone()
    with pytest.raises(CheckpointError, match=noun):
        onebit.load_gguf_(other, path)
    assert torch.equal(other.lm_head.weight, before)


def test_without_its_key_the_base_of_rotations_is_10_000(file_with: Any) -> None:
    options: dict[str, Any] = {"quantizer": Groups, "rope_parameters": {"rope_theta": 1e6}}
    path = file_with(language_model(**options), {"llama.rope.freq_base": None}, {})
    with pytest.raises(CheckpointError, match="freq_base"):
        onebit.load_gguf_(language_model(**options), path)


def test_files_of_other_models_are_refused_and_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    onebit.export_gguf(language_model(quantizer=Groups), path)
    for other in (
        language_model("qwen3"),
        language_model(tied=True),
        language_model(bias=True),
        language_model(quantizer="sign"),  # has no scales
        language_model(quantizer="magnitude_aware"),  # has one for each row
        language_model(quantizer=Groups, num_attention_heads=8, head_dim=8),
        language_model(quantizer=Groups, rope_parameters={"rope_theta": 1e6}),
    ):
        before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
        with pytest.raises(CheckpointError):
            onebit.load_gguf_(other, path)
        assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())
    for rope in ({"rope_type": "linear", "factor": 2.0}, {"rope_type": "llama3", "factor": 8.0}):
        with pytest.raises(UsageError, match="rope"):
            onebit.load_gguf_(language_model(quantizer=Groups, rope_parameters=rope), path)
    other = language_model(quantizer=Groups)
    other.lm_head = nn.Linear(128, 9, bias=False)
    with pytest.raises(CheckpointError, match="shape"):
        onebit.load_gguf_(other, path)


def test_a_float_model_is_written_too(tmp_path: Path) -> None:
    made = onebit.export_gguf(language_model(quantizer=None), tmp_path / "x.gguf", rest="f16")
    assert "Q1_0" not in made.tensors
    assert read_gguf(tmp_path / "x.gguf").facts["general.file_type"] == gguf.LlamaFileType.MOSTLY_F16


def test_the_card_is_in_the_metadata(tmp_path: Path) -> None:
    model = language_model()
    onebit.export_gguf(model, tmp_path / "x.gguf", card={"summary": "a poet", "data": "poems"})
    facts = read_gguf(tmp_path / "x.gguf").facts
    card = Card.from_json(json.loads(facts["onebit.card"]))
    assert (card.summary, card.data, card.method) == ("a poet", "poems", "weights magnitude_aware")
    assert facts["general.name"] == "a poet"
    assert facts["onebit.version"] == onebit.__version__


# ------------------------------------------------------------------------------------------------------------ refusals
REFUSED: dict[str, dict[str, Any]] = {
    "mixtral": {"model_type": "mixtral"},
    "rope": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
    "rope scaling": {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "rope scaling.": {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
    "partial": {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
    "partial rotary": {"partial_rotary_factor": 0.5},
    "silu": {"hidden_act": "gelu"},
    "sliding": {"layer_types": ["full_attention", "sliding_attention"]},
    "sliding windows": {"model_type": "qwen3", "use_sliding_window": True},
    "causal": {"is_causal": False},
    "experts": {"num_local_experts": 8},
    "biases": {"model_type": "qwen3", "attention_bias": True},
    "num_hidden_layers": {"num_hidden_layers": 10**6},
}


@pytest.mark.parametrize("noun", REFUSED)
def test_what_llama_cpp_would_compute_differently_is_refused(tmp_path: Path, noun: str) -> None:
    model = language_model()
    model.config |= REFUSED[noun]
    with pytest.raises(UsageError, match=noun):
        onebit.export_gguf(model, tmp_path / "x.gguf")
    assert not [*tmp_path.iterdir()]


def with_centers(model: Any) -> None:
    model.get_submodule(QUERY).weight_quantizer = WEIGHT_QUANTIZERS["adabin"]()


def with_narrow_rows(model: Any) -> None:
    onebit.binarize_(model, where=lambda name, _: "o_proj" in name)  # 64 inputs


def with_a_tied_binary_head(model: Any) -> None:
    onebit.binarize_(model, where=lambda name, _: name == "lm_head")
    model.lm_head.weight = model.model.embed_tokens.weight


def with_a_nan(model: Any) -> None:
    model.get_submodule(QUERY).weight.data[3, 5] = torch.nan


def with_tiny_scales(model: Any) -> None:
    model.get_submodule(QUERY).weight.data *= 1e-5


def with_quantized_inputs(model: Any) -> None:
    model.get_submodule(QUERY).input_quantizer = nn.Identity()


def with_an_adapter(model: Any) -> None:
    model.get_submodule(QUERY).adapter = nn.Linear(2, 2)


def with_more_rows_than_tokens(model: Any) -> None:
    """As `resize_token_embeddings` of a model whose configuration is not told."""
    model.config["vocab_size"] -= 1


def without_a_layer(model: Any) -> None:
    del model.model.layers[1].mlp.up_proj


BREAK = [
    *(
        (with_centers, "center"),
        (with_narrow_rows, "128"),
        (with_a_tied_binary_head, "embed_tokens"),
        (with_a_nan, "finite"),
    ),
    *((with_tiny_scales, "scales"), (with_quantized_inputs, "inputs"), (with_an_adapter, "adapter")),
    (without_a_layer, "ffn_up"),
    (with_more_rows_than_tokens, "vocab_size"),
]


@pytest.mark.parametrize(("change", "noun"), BREAK)
def test_models_that_do_not_fit_are_refused(tmp_path: Path, change: Any, noun: str) -> None:
    model = language_model()
    change(model)
    with pytest.raises(UsageError, match=noun):
        onebit.export_gguf(model, tmp_path / "x.gguf")
    assert not [*tmp_path.iterdir()]


def test_a_model_without_configuration_and_an_unknown_type_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="config"):
        onebit.export_gguf(nn.Linear(2, 2), tmp_path / "x.gguf")
    with pytest.raises(UnknownNameError, match="q4"):
        onebit.export_gguf(language_model(), tmp_path / "x.gguf", rest="q4")


@pytest.mark.parametrize("step", ["pack", "write"])
def test_a_wrong_bit_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    from onebit.export.gguf import target

    def packed(signs: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return wrong(pack(signs, scale))

    def added(writer: Any, name: str, data: np.ndarray, **options: Any) -> None:
        add(writer, name, wrong(data) if name == "blk.1.attn_q.weight" else data, **options)

    def wrong(blocks: np.ndarray) -> np.ndarray:
        blocks = blocks.copy()
        blocks[-1, -1] ^= 1
        return blocks

    pack, add = target.pack_q1_0, gguf.GGUFWriter.add_tensor
    if step == "pack":
        monkeypatch.setattr(target, "pack_q1_0", packed)
    else:
        monkeypatch.setattr(gguf.GGUFWriter, "add_tensor", added)
    with pytest.raises(OnebitError, match="attn"):
        onebit.export_gguf(language_model(), tmp_path / "x.gguf")
    assert not [*tmp_path.iterdir()]


def test_a_wrapped_model_is_exported_as_the_one_inside(tmp_path: Path) -> None:
    """Such as one of torch.compile."""
    model = language_model(quantizer=Groups)
    wrapped = nn.DataParallel(model)
    assert onebit.quantizer_config(wrapped) == onebit.quantizer_config(model)
    for n, one in enumerate((model, wrapped)):
        onebit.export_gguf(one, tmp_path / f"{n}.gguf")
    assert (tmp_path / "0.gguf").read_bytes() == (tmp_path / "1.gguf").read_bytes()
    assert onebit.load_gguf_(wrapped, tmp_path / "0.gguf") is wrapped


def test_latents_and_inputs_alone_are_no_language_model(tmp_path: Path) -> None:
    """As after `from_pretrained` without `register_transformers`, and after `dense_` with quantized inputs."""
    real = language_model(quantizer=None)
    real.config.quantization_config = onebit.quantizer_config(language_model())
    with pytest.raises(UsageError, match="latents"):
        onebit.export_gguf(real, tmp_path / "x.gguf")
    onebit.binarize_from_config_(real)
    assert onebit.quantizer_config(real) == real.config.quantization_config
    onebit.export_gguf(onebit.dense_(real), tmp_path / "x.gguf")
    assert "quantization_config" not in real.config
    onebit.binarize_(real, input_quantizer="int8", where=lambda name, _: "proj" in name)
    with pytest.raises(UsageError, match="inputs"):
        onebit.export_gguf(onebit.dense_(real), tmp_path / "y.gguf")


# ------------------------------------------------------------------------------------------------------------- folders
@pytest.mark.parametrize("quantizer", [*WEIGHT_QUANTIZERS])
def test_a_folder_gives_the_binary_weights_of_its_model(tmp_path: Path, quantizer: str) -> None:
    """With the options and the parameters of quantizers."""
    options: dict[str, Any] = {
        "ste_sign": {"clip_value": 2.0},
        "recu": {"tau_end": 0.9},
        "sign": {"value": 0.25},
        "xnor": {"group": 128},
    }
    made: Quantizer = WEIGHT_QUANTIZERS[quantizer](**options.get(quantizer, {}))
    model = language_model(quantizer=made)
    for module in model.modules():
        for parameter in module.parameters(recurse=False) if isinstance(module, Quantizer) else ():
            parameter.data *= 1.5
    _, parameters = read_pretrained(save_pretrained(model, tmp_path))
    for name, layer in model.named_modules():
        if isinstance(layer, onebit.BinaryLinear):
            latent, other = parameters[f"{name}.weight"]
            assert repr(other) == repr(layer.weight_quantizer)
            for mine, expected in zip(other.decompose(latent), layer.binary_weight(), strict=True):
                assert (mine is None and expected is None) or torch.equal(mine, expected)


@pytest.mark.parametrize("tied", [False, True])
def test_a_folder_of_several_files_is_exported_as_its_model_with_its_card(tmp_path: Path, tied: bool) -> None:
    model = language_model(tied=tied)
    folder = save_pretrained(model, tmp_path / "folder")
    state = safetensors.torch.load_file(folder / "model.safetensors")
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)  # of old checkpoints
    (folder / "model.safetensors").unlink()
    for n in range(3):
        safetensors.torch.save_file(dict([*state.items()][n::3]), folder / f"model-{n}.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["card"] = {"license": "CC0"}
    (folder / "config.json").write_text(json.dumps(config))
    onebit.export_gguf(model, tmp_path / "1.gguf", card={"license": "CC0"})
    onebit.export_gguf(folder, tmp_path / "2.gguf")
    one, two = (read_gguf(tmp_path / name) for name in ("1.gguf", "2.gguf"))
    assert one.facts == two.facts
    assert json.loads(one.facts["onebit.card"]) == {"license": "CC0", "method": "weights magnitude_aware"}
    assert one.tensors.keys() == two.tensors.keys()
    for name, tensor in one.tensors.items():
        assert np.array_equal(tensor.data, two.tensors[name].data)


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    folder = save_pretrained(language_model(), tmp_path / "folder")
    config = json.loads((folder / "config.json").read_text())
    group = config["quantization_config"]["quantizers"][0]

    def refused(content: Any, error: type[Exception] = FormatError) -> None:
        (folder / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(error):
            onebit.export_gguf(folder, tmp_path / "x.gguf")

    def with_group(**other: Any) -> dict[str, Any]:
        return {**config, "quantization_config": {"quant_method": "onebit", "quantizers": [{**group, **other}]}}

    for content in (
        "",
        "[]",
        "[" * 10**5,
        {**config, "quantization_config": None},
        {k: v for k, v in config.items() if k != "quantization_config"},
    ):
        refused(content)
    for groups in ([], 1, [1], [{"layers": ["x"]}]):
        refused({**config, "quantization_config": {"quant_method": "onebit", "quantizers": groups} if groups else []})
    refused({**config, "quantization_config": {**config["quantization_config"], "quant_method": "fp8"}})
    refused(with_group(weights={"quantizer": "own.py:Mine", "options": {}}), UnknownNameError)
    refused(with_group(weights={"quantizer": "xnor", "options": {"nothing": 1}}))
    refused(with_group(inputs={"quantizer": "ste_sign", "options": {}}), UsageError)
    refused(with_group(layers=[*group["layers"], "lm_head_of_none"]))
    refused(with_group(layers=[*group["layers"], "model.norm"]), UsageError)
    (folder / "config.json").write_text(json.dumps(config))
    for name, noun in (
        ("model.norm.weight.x", "place"),
        ("model.norm.weight", "two"),
        (f"{QUERY}.weight_quantizer.x", "x"),
    ):
        safetensors.torch.save_file({name: torch.ones(3)}, folder / "model-2.safetensors")
        with pytest.raises(OnebitError, match=noun):
            onebit.export_gguf(folder, tmp_path / "x.gguf")
    (folder / "model-2.safetensors").unlink()
    state = safetensors.torch.load_file(folder / "model.safetensors")
    state.pop("lm_head.weight")  # as if its shard was lost; llama.cpp would take the embedding
    safetensors.torch.save_file(state, folder / "model.safetensors")
    with pytest.raises(FormatError, match="lm_head"):
        onebit.export_gguf(folder, tmp_path / "x.gguf")
    for content in (b"", b"\xff" * 99, (folder / "model.safetensors").read_bytes()[:-99]):
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(FormatError):
            onebit.export_gguf(folder, tmp_path / "x.gguf")


# ---------------------------------------------------------------------------------------------------------- tokenizers
LETTERS = [chr(n) for n in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
"""GPT-2's characters for the bytes."""
VOCABULARY = {letter: n + 2 for n, letter in enumerate(LETTERS)} | {"ĠĠ": 258, "Ã©": 259, "ĠÃ©": 260}
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tokenizer(folder: Path, **other: Any) -> Path:
    model = {"type": "BPE", "vocab": VOCABULARY, "merges": [["Ġ", "Ġ"], ["Ã", "©"], ["Ġ", "Ã©"]]}
    added = [{"id": n, "content": text, "special": n < 2} for n, text in ((0, "<s>"), (1, "</s>"), (261, "<a b>\n"))]
    before = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    post = {"type": "TemplateProcessing", "special_tokens": {"<s>": {"ids": [0]}}}
    post["single"] = [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]
    found = {"model": model, "added_tokens": added, "pre_tokenizer": before, "post_processor": post, "normalizer": None}
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps({**found, **other}))
    return folder


def entries(path: Path) -> dict[str, Any]:
    found = gguf.GGUFReader(path).fields.items()
    return {key.removeprefix("tokenizer."): field.contents() for key, field in found if key.startswith("tokenizer.")}


def test_tokens_merges_and_special_tokens_are_written(tmp_path: Path) -> None:
    onebit.export_gguf(language_model(), tmp_path / "x.gguf", tokenizer=tokenizer(tmp_path / "tokens"))
    found = entries(tmp_path / "x.gguf")
    tokens = found["ggml.tokens"]
    assert len(tokens) == len(found["ggml.token_type"]) == TOKENS
    assert tokens[:3] == ["<s>", "</s>", "!"]
    assert tokens[258:263] == ["ĠĠ", "Ã©", "ĠÃ©", "<a b>\n", "[PAD262]"]
    kinds = gguf.TokenType
    expected = [kinds.CONTROL] * 2 + [kinds.NORMAL] * 259 + [kinds.USER_DEFINED] + [kinds.UNUSED] * 38
    assert found["ggml.token_type"] == expected
    assert found["ggml.merges"] == ["Ġ Ġ", "Ã ©", "Ġ Ã©"]
    assert (found["ggml.model"], found["ggml.pre"], found["ggml.add_bos_token"]) == ("gpt2", "gpt-2", True)
    assert (found["ggml.bos_token_id"], found["ggml.eos_token_id"]) == (0, 1)  # of the model


def test_the_tokenizer_of_a_folder_is_its_own(tmp_path: Path) -> None:
    folder = save_pretrained(language_model(), tokenizer(tmp_path / "folder", post_processor=None))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<s>", "chat_template": "{{x}}"}))
    onebit.export_gguf(folder, tmp_path / "x.gguf")
    found = entries(tmp_path / "x.gguf")
    assert (found["ggml.eos_token_id"], found["ggml.add_bos_token"], found["chat_template"]) == (0, False, "{{x}}")
    onebit.export_gguf(language_model(), tmp_path / "x.gguf")
    assert entries(tmp_path / "x.gguf") == {"ggml.model": "none"}


def split(regex: str) -> dict[str, Any]:
    last = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    first = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [first, last]}}


def test_ways_to_split_words_are_recognized(tmp_path: Path) -> None:
    llama = {"ignore_merges": True, "type": "BPE", "vocab": VOCABULARY, "merges": []}
    for pre, other in (
        ("qwen2", split(WORDS)),
        ("qwen2", {**split(WORDS), "normalizer": {"type": "NFC"}}),
        ("gpt-2", {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False}}),  # as GPT-2's own file
        ("llama-bpe", {**split(WORDS.replace(r"\p{N}|", r"\p{N}{1,3}|")), "model": llama}),
    ):
        onebit.export_gguf(language_model(), tmp_path / "x.gguf", tokenizer=tokenizer(tmp_path / "tokens", **other))
        assert entries(tmp_path / "x.gguf")["ggml.pre"] == pre


def test_unknown_splits_need_a_name(tmp_path: Path) -> None:
    digits = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTES]}
    for other in (split(r"\w+"), split(WORDS + "|x"), {"pre_tokenizer": digits}):
        folder = tokenizer(tmp_path / "tokens", **other)
        with pytest.raises(UsageError, match="pre"):
            onebit.export_gguf(language_model(), tmp_path / "x.gguf", tokenizer=folder)
        onebit.export_gguf(language_model(), tmp_path / "x.gguf", tokenizer=folder, pre="mine")
        assert entries(tmp_path / "x.gguf")["ggml.pre"] == "mine"
    whole = tokenizer(tmp_path / "tokens", **bpe(ignore_merges=True))
    with pytest.raises(UsageError, match="ignore_merges"):
        onebit.export_gguf(language_model(), tmp_path / "x.gguf", tokenizer=whole, pre="gpt-2")


TEXT, IDS = {"Sequence": {"id": "A"}}, {"<s>": {"ids": [0]}, "</s>": {"ids": [1]}}


def special(name: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": name}}


def bpe(**options: Any) -> dict[str, Any]:
    return {"model": {"type": "BPE", "vocab": VOCABULARY, "merges": []} | options}


def added(**options: Any) -> dict[str, Any]:
    return {"added_tokens": [{"id": 0, "content": "<s>", "special": True, **options}]}


BYTES: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
OTHER_TOKENIZERS: list[tuple[str, dict[str, Any]]] = [
    ("end_of_word_suffix", bpe(end_of_word_suffix="</w>")),
    ("continuing_subword_prefix", bpe(continuing_subword_prefix="##")),
    ("dropout", bpe(dropout=0.1)),
    ("bytes", bpe(vocab={"a": 0}, unk_token="a")),
    ("normalizer", {"normalizer": {"type": "Lowercase"}}),
    ("normalizer", {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]}}),
    ("add_prefix_space", {"pre_tokenizer": {**BYTES, "add_prefix_space": True}}),
    ("pre_tokenizer", {"pre_tokenizer": None}),
    ("Whitespace", {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, BYTES]}}),
    (
        "Removed",
        {"pre_tokenizer": {"pretokenizers": [{"type": "Split", "behavior": "Removed", "invert": False}, BYTES]}},
    ),
    ("decoder", {"decoder": {"type": "WordPiece"}}),
    ("lstrip", added(lstrip=True)),
    ("rstrip", added(rstrip=True)),
    ("single_word", added(single_word=True)),
    ("RobertaProcessing", {"post_processor": {"type": "RobertaProcessing", "cls": ["<s>", 0], "sep": ["</s>", 1]}}),
    *(
        ("post_processor", {"post_processor": {"type": "TemplateProcessing", "single": single, "special_tokens": IDS}})
        for single in ([TEXT, special("<s>")], [special("</s>"), TEXT], [special("<s>"), special("<s>"), TEXT])
    ),
]


@pytest.mark.parametrize(("noun", "other"), OTHER_TOKENIZERS)
def test_tokenizers_with_other_tokens_are_refused_whatever_splits_words(
    tmp_path: Path, noun: str, other: dict[str, Any]
) -> None:
    folder = tokenizer(tmp_path / "tokens", **other)
    for pre in (None, "gpt-2"):
        with pytest.raises(UsageError, match=noun):
            onebit.export_gguf(language_model(), tmp_path / "x.gguf", tokenizer=folder, pre=pre)
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize("pre", [None, "default"])
def test_sentencepiece_is_refused_by_name(tmp_path: Path, pre: str | None) -> None:
    """As Llama 2 and Mistral."""
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}
    old = tokenizer(tmp_path / "a", **bpe(byte_fallback=True), normalizer=normalizer, pre_tokenizer=None)
    before = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    new = tokenizer(tmp_path / "b", **bpe(byte_fallback=True), pre_tokenizer=before)
    for folder in (old, new):
        with pytest.raises(UsageError, match="sentencepiece"):
            onebit.export_gguf(language_model(), tmp_path / "x.gguf", tokenizer=folder, pre=pre)


def test_what_makes_no_other_tokens_is_accepted(tmp_path: Path) -> None:
    steps = [{"type": "ByteLevel", "trim_offsets": False}, {"type": "TemplateProcessing", "special_tokens": IDS}]
    steps[1]["single"] = [special("<s>"), TEXT, special("</s>")]
    both = {"type": "Sequence", "processors": steps}
    options = {"end_of_word_suffix": "", "continuing_subword_prefix": "", "dropout": None, "unk_token": "<s>"}
    other = {"post_processor": both, "decoder": {"type": "ByteLevel"}, "normalizer": {"normalizers": []}}
    onebit.export_gguf(language_model(), tmp_path / "x.gguf", tokenizer=tokenizer(tmp_path, **other, **bpe(**options)))
    found = entries(tmp_path / "x.gguf")
    assert (found["ggml.add_bos_token"], found["ggml.add_eos_token"], found["ggml.pre"]) == (True, True, "gpt-2")


def test_the_tokenizer_can_be_an_object(tmp_path: Path) -> None:
    class Fast:
        def save_pretrained(self, folder: str) -> None:
            tokenizer(Path(folder))

    onebit.export_gguf(language_model(), tmp_path / "1.gguf", tokenizer=Fast())
    onebit.export_gguf(language_model(), tmp_path / "2.gguf", tokenizer=tokenizer(tmp_path / "tokens"))
    assert (tmp_path / "1.gguf").read_bytes() == (tmp_path / "2.gguf").read_bytes()


def test_damaged_tokenizers_are_refused(tmp_path: Path) -> None:
    many = {"type": "BPE", "vocab": VOCABULARY | {"a": TOKENS}, "merges": []}
    with pytest.raises(UsageError, match="tokens"):
        onebit.export_gguf(language_model(), tmp_path / "x.gguf", tokenizer=tokenizer(tmp_path / "a", model=many))
    words = tokenizer(tmp_path / "a", model={"type": "WordPiece", "vocab": {"a": 0}})
    with pytest.raises(UsageError, match="BPE"):
        onebit.export_gguf(language_model(), tmp_path / "x.gguf", tokenizer=words, pre="mine")
    damaged: list[dict[str, Any]] = [{"model": {}}, {"added_tokens": [1]}, {"pre_tokenizer": 1}, {"post_processor": 1}]
    for other in damaged:
        with pytest.raises(FormatError, match="tokenizer"):
            onebit.export_gguf(language_model(), tmp_path / "x.gguf", tokenizer=tokenizer(tmp_path / "a", **other))
    with pytest.raises(FormatError, match="tokenizer"):
        onebit.export_gguf(language_model(), tmp_path / "x.gguf", tokenizer=tmp_path / "none")
