"""A subject's adapter as a file that other programs load."""

import os
from pathlib import Path

from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya
from safetensors.torch import load_file, save_file

from insitu.errors import UserError
from insitu.registry.package import Package

FORMS = ("diffusers", "kohya")
MODELS = ("unet.", "transformer.")
LORA = (".lora_A.weight", ".lora_B.weight")


def export(adapter: Path, out: Path, form: str) -> int:
    """Write a LoRA's weights: by PEFT's names under diffusers' prefix, or by kohya's, which
    ComfyUI and others read; how many tensors there are.

    Raises:
        UserError: the package is damaged, or its adapter is no plain LoRA.
    """
    package = Package.open(adapter)
    weights = load_file(package.weights)
    if not all(name.startswith(MODELS) and name.endswith(LORA) for name in weights):
        raise UserError(
            f"The adapter {adapter} ({package.card.method}) was to be exported.",
            "It is no plain LoRA: other programs have no place for what else it holds.",
            "Export one of dreammix, eligen or uno.",
        )
    if form == "kohya":
        weights = convert_state_dict_to_kohya(weights)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    save_file({name: weight.contiguous() for name, weight in weights.items()}, temporary)
    os.replace(temporary, out)
    return len(weights)
