"""Versions, device and settings; the checkpoints have a module of their own."""

import importlib.metadata
import os
import platform
from pathlib import Path

from insitu.doctor.checkpoints import examine_checkpoint
from insitu.doctor.report import Device, Findings, Report
from insitu.errors import UserError
from insitu.params import Params, float16_on_cpu, load, offload_on_cpu

LIBRARIES = (
    "insitu",
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "safetensors",
    "lightning",
    "pyarrow",
    "pydantic",
    "dvc",
    "dagster",
    "mlflow",
    "ray",
)


def examine(params_file: Path) -> Report:
    """Look at everything; problems are collected in the report, none is raised.

    Every weight file is read for its digest, so the time grows with the checkpoints' size.
    """
    findings = Findings()
    params = findings.attempt(lambda: load(params_file))
    device = _device("auto" if params is None else params.device)
    checkpoints = []
    if params is not None:
        findings.attempt(lambda: _check_device(params, device))
        checkpoints = [
            examine_checkpoint(name, getattr(params.models, name), findings)
            for name in type(params.models).model_fields
        ]
    return Report(
        ok=not findings.problems,
        python=platform.python_version(),
        libraries={name: _version(name) for name in LIBRARIES},
        params_file=str(params_file),
        device=device,
        checkpoints=tuple(checkpoints),
        problems=tuple(findings.problems),
    )


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device(requested: str) -> Device:
    cuda = None if requested == "cpu" else _cuda_name()
    return Device(
        requested=requested,
        type="cpu" if cuda is None else "cuda",
        name=cuda or _cpu_name(),
        cores=_cores(),
    )


def _cuda_name() -> str | None:
    version = _version("torch")
    if version is None or version.endswith("+cpu"):
        return None  # cannot have CUDA, and importing torch takes seconds
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_device(params: Params, device: Device) -> None:
    if device.type == "cuda":
        return
    if params.device == "cuda":
        raise UserError(
            "`device` is cuda.",
            f"The installed torch ({_version('torch') or 'none'}) finds no CUDA device here.",
            "Set `device` to auto or cpu, or install a CUDA build of torch and its driver.",
        )
    if params.dtype == "float16":
        raise float16_on_cpu("float16 is asked for, and `device: auto` finds no CUDA device here.")
    if params.painting.offload != "none":
        raise offload_on_cpu(
            f"`painting.offload` is {params.painting.offload}, and `device: auto` finds no CUDA"
            " device here."
        )
