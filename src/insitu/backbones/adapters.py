"""LoRA adapters in a frozen model of diffusers: put in, switched, written and read by PEFT's names.

An adapter is *disabled* (its scale is 0, and it is not computed), *frozen* (it acts and does not
learn) or *learning*. Several lie in one model under names of their own.
"""

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from insitu.backbones.sharding import whole
from insitu.errors import UserError

State = Literal["disabled", "frozen", "learning"]


def attach(model: Any, config: LoraConfig, name: str) -> nn.ModuleDict:
    """Put a learning adapter in, B at zero, so that nothing changes yet; its layers by name.

    It learns in float32: PEFT gives an adapter its layer's dtype, and in bfloat16, with its 8 bits
    of precision, Adam's usual steps are rounded away. Its results are cast to the base's dtype.
    Adapters that were there before keep acting and learning.

    Args:
        config: `target_modules` is a list of names' ends, or one regular expression of whole names.

    Raises:
        UserError: a target names no layer of this model.
    """
    # No public name for it; diffusers' own loaders of adapters call it where the model changed.
    from diffusers.hooks.group_offloading import _maybe_remove_and_reapply_group_offloading
    from diffusers.training_utils import cast_training_params

    _require_targets(model, config)
    before = list(getattr(model, "peft_config", None) or ())
    with warnings.catch_warnings():
        # Several adapters in one model are what is wanted.
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        model.add_adapter(config, adapter_name=name)
    model.set_adapter([*before, name])
    cast_training_params(model, dtype=torch.float32)
    _maybe_remove_and_reapply_group_offloading(model)
    return layers(model, name)


def layers(model: Any, name: str) -> nn.ModuleDict:
    """An adapter's layers by their names in the file, with slashes: a module's holds no dot."""
    return nn.ModuleDict(
        {
            f"{path}.{part}".replace(".", "/"): getattr(layer, part)[name]
            for path, layer in model.named_modules()
            if isinstance(layer, LoraLayer) and name in layer.lora_A
            for part in ("lora_A", "lora_B")
        }
    )


def detach(model: Any) -> None:
    """Take all adapters out; the model is bit for bit what it was."""
    model.unload_lora()


def switch(model: Any, name: str, state: State, *, weight: float = 1.0) -> None:
    """Disable, freeze or wake an adapter; `weight` multiplies its scale of alpha / rank."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and name in layer.lora_A:
            layer.set_scale(name, 0.0 if state == "disabled" else weight)
            for part in (layer.lora_A[name], layer.lora_B[name]):
                part.requires_grad_(state == "learning")


def count(model: Any, name: str) -> int:
    """Numbers in an adapter."""
    return sum(p.numel() for p in layers(model, name).parameters())


def state(model: Any, name: str, *, prefix: str) -> dict[str, Tensor]:
    """An adapter's weights under PEFT's names after `prefix`, on the CPU.

    With diffusers' prefix (`unet.`, `transformer.`), `load_lora_weights` reads them as they are.
    """
    found = get_peft_model_state_dict(model, adapter_name=name)
    return {f"{prefix}{key}": whole(value) for key, value in found.items()}


def plain_state(module: nn.Module, *, prefix: str) -> dict[str, Tensor]:
    """The weights of a part that is no LoRA, after `prefix`, on the CPU."""
    return {f"{prefix}{key}": whole(value) for key, value in module.state_dict().items()}


def fill(model: Any, name: str, weights: Mapping[str, Tensor], *, prefix: str) -> None:
    """Give an attached adapter the weights that `state` returned."""
    plain = {key.removeprefix(prefix): value for key, value in weights.items()}
    set_peft_model_state_dict(model, plain, adapter_name=name)


def load(
    model: Any,
    config: LoraConfig,
    name: str,
    weights: Mapping[str, Tensor],
    *,
    prefix: str,
    base: str,
) -> None:
    """Attach an adapter and give it the weights that `state` returned.

    Args:
        base: the checkpoint's name, for errors.

    Raises:
        UserError: they are of another base, other targets or another rank; none is attached then.
    """
    attach(model, config, name)
    try:
        require_names(state(model, name, prefix=prefix), weights, base)
    except UserError:
        model.delete_adapters(name)
        raise
    fill(model, name, weights, prefix=prefix)


def require_names(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], base: str) -> None:
    """Refuse weights of another base, other targets or another rank.

    Args:
        expected: as the adapter that is to be filled has them.

    Raises:
        UserError: names or shapes differ.
    """
    lost, foreign = (
        sorted(expected.keys() - weights.keys()),
        sorted(weights.keys() - expected.keys()),
    )
    if lost or foreign:
        raise UserError(
            f"An adapter with {len(weights)} tensors was to be loaded on {base}.",
            f"{len(lost)} of its layers are missing and {len(foreign)} are unknown here, first "
            f"{(lost + foreign)[0]}.",
            "Load it with the base and the targets that it was trained with.",
        )
    for name, tensor in expected.items():
        if tensor.shape != weights[name].shape:
            raise UserError(
                f"An adapter was to be loaded on {base}.",
                f"Its {name} is {tuple(weights[name].shape)}, here it is {tuple(tensor.shape)}.",
                "Load it with the base and the rank that it was trained with.",
            )


def _require_targets(model: Any, config: LoraConfig) -> None:
    targets = config.target_modules
    if targets is None or isinstance(targets, str):
        return  # a regular expression is ours, and PEFT refuses one that matches nothing
    names = [name for name, _ in model.named_modules()]
    idle = [t for t in targets if not any(n == t or n.endswith(f".{t}") for n in names)]
    if idle:
        raise UserError(
            f"The LoRA targets {sorted(targets)} were given.",
            f"{sorted(idle)} name no layer of this {type(model).__name__}; a target that matches"
            " nothing would learn nothing.",
            "Use names of its layers, such as to_k, to_v, to_out.0.",
        )
