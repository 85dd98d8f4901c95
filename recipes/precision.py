"""Which precision a machine is quick in."""

import logging
import platform

import torch

logger = logging.getLogger("recipes.precision")
# Names in `torch.cpu.get_capabilities`, on x86 and on ARM.
_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


def bf16_if_quick(asked: bool, on_cpu: bool, option: str) -> bool:
    """Whether to train under bfloat16 autocast: as asked, but not on a CPU that has no instructions for it.

    There PyTorch computes it all the same, several times more slowly than float32.

    Args:
        asked: what the option says.
        on_cpu: whether training is on a CPU.
        option: its name, for the log.
    """
    if not asked or not on_cpu:
        return asked
    if any(torch.cpu.get_capabilities().get(name) for name in _INSTRUCTIONS):
        return True
    processor = torch.cpu.get_capabilities().get("cpu_name") or platform.machine()
    logger.warning("%s: this CPU (%s) has no bfloat16 instructions; float32 is quicker and used", option, processor)
    return False
