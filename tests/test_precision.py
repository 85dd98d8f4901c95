"""bfloat16 where it is quicker."""

import precision
import pytest
import torch


@pytest.mark.parametrize(
    "instructions", [{"avx512_bf16": True}, {"avx512_bf16": False, "amx_bf16": True}, {"bf16": True}]
)
def test_bfloat16_is_used_where_the_processor_has_it(monkeypatch, caplog, instructions):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    assert precision.bf16_if_quick(True, on_cpu=True, option="--x")
    assert not precision.bf16_if_quick(False, on_cpu=True, option="--x")
    assert caplog.text == ""


def test_float32_is_used_and_told_on_a_processor_without_it(monkeypatch, caplog):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": "Old", "avx2": True, "avx512_bf16": False})
    assert not precision.bf16_if_quick(True, on_cpu=True, option="--pretrain_bf16")
    assert "--pretrain_bf16: this CPU (Old) has no bfloat16 instructions; float32 is quicker and used" in caplog.text
    # The accelerator's matter.
    assert precision.bf16_if_quick(True, on_cpu=False, option="--pretrain_bf16")


def test_this_processor_is_known():
    assert {"architecture", "num_physical_cores"} <= set(torch.cpu.get_capabilities())
