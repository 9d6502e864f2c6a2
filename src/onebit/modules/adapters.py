"""Adapters of PEFT on packed layers."""

from __future__ import annotations

from typing import Any

from onebit.modules.layers import PackedLinear


def adapt_packed(config: Any) -> Any:
    """Let PEFT put the adapters of a `LoraConfig` on the dense layers of `onebit.packed_layers_`.

    The bits stay as they are, and gradients pass through them to the adapters (LoRA, arXiv:2106.09685). PEFT does not
    store this choice: to load adapters, give `PeftModel.from_pretrained` such a config, too. Adapters on bits cannot be
    merged: a packed layer has no `weight`.

    Returns:
        The same config.

    Example:
        >>> onebit.packed_layers_(model)
        >>> model = peft.get_peft_model(model, adapt_packed(peft.LoraConfig(target_modules=["q_proj", "v_proj"])))
    """
    from peft.tuners import lora

    class PackedLora(lora.Linear):
        def _get_in_out_features(self, module: Any) -> tuple[int, int]:
            return module.in_features, module.out_features

    config._register_custom_module({PackedLinear: PackedLora})
    return config
