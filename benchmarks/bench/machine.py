"""The machine and the versions that the figures hold for."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

ROOT = Path(__file__).resolve().parents[2]

_ISA = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16")
_PACKAGES = (
    *("torch", "numpy", "openvino", "nncf", "monailabel", "monai", "segment_anything", "sam2"),
    *("fastapi", "uvicorn", "pydicom", "SimpleITK"),
)


def machine() -> dict[str, Any]:
    """Processor, memory, graphics card, and how busy the machine is at this moment."""
    memory = psutil.virtual_memory()
    model, flags = _processor()
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "physical_cores": psutil.cpu_count(logical=False),
        "isa": [flag for flag in _ISA if flag in flags],
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(memory.total / 2**30, 1),
        "memory_available_gib": round(memory.available / 2**30, 1),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Of Python, of this project, and of the packages that the figures depend on, where they are installed."""
    found = {"python": platform.python_version(), "commit": _commit()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> tuple[str, set[str]]:
    """Its name and its flags, as Linux tells them; elsewhere the name alone."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine(), set()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = facts.get("model name", platform.machine())
    numbers = ", ".join(f"{key} {facts[key]}" for key in ("cpu family", "model") if key in facts)
    return f"{name} ({numbers})" if numbers else name, set(facts.get("flags", "").split())


def _commit() -> str:
    """Of this repository, with a mark if files are changed; ``unknown`` where there is no git."""
    try:
        describe = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"]
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
