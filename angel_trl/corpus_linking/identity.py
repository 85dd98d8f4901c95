"""What a linker is, as a digest of all that decides its answers, and what their last digits depend on besides."""

import hashlib
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import torch

from angel_trl.linker import EntityLinker

__all__ = ["environment", "linker_fingerprint"]

# Of a model's configuration, what says where it came from and not what it computes.
_ORIGIN = ("_name_or_path", "transformers_version", "architectures")


def linker_fingerprint(linker: EntityLinker) -> str:
    """SHA-256, in hex, of weights, configuration, tokenizer, names and calibration.

    It is the same for a linker from a folder, from the Hub, and in memory.
    """
    config = {key: value for key, value in linker.model.config.to_dict().items() if key not in _ORIGIN}
    formatter = linker.targets.formatter
    calibration = None if linker.calibration is None else linker.calibration.to_json()
    parts = [config, formatter.fingerprint(linker.kb.fingerprint), calibration]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
    for name, tensor in sorted(linker.model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def environment(device: torch.device) -> dict[str, Any]:
    """Hardware and versions that the last digits of scores depend on."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "processor": gpu or model or platform.machine(),
        "threads": torch.get_num_threads(),
        **{package: importlib.metadata.version(package) for package in ("torch", "transformers", "pyarrow")},
    }
