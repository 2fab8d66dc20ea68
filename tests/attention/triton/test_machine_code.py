"""What is read from machine code, on listings short enough to count by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import floors, machine_code
from benchmarks.machine_code import Loop, main_loop
from settx_fast.testing import SHAPES


def listing(*code: str) -> str:
    """Instructions as cuobjdump lists them, 16 bytes each, with their encoding beside them."""
    lines = (f"        /*{16 * i:04x}*/   {text} ;   /* 0x00000a00ff017b82 */" for i, text in enumerate(code))
    return "\n".join(("\t.target\tsm_90a", "", *lines))


WAITED = (
    "WARPGROUP.ARRIVE",
    "HGMMA.64x64x16.F32.BF16 R24, R24, gdesc[UR4], RZ, !UPT, gsb0",
    "WARPGROUP.DEPBAR.LE gsb0, 0x0",
)
TOGETHER = (WAITED[0], WAITED[1], WAITED[1], WAITED[2])


def test_the_main_loop_is_the_innermost_one_with_most_products() -> None:
    code = listing(
        "STL [R1], R4",
        "FADD R1, R2, R3", "@P0 BRA 0x10",  # a loop without products
        "LDL R7, [R1]", "@!P1 BRA 0x80",  # out of and into the outer loop, forward
        *TOGETHER, "LDL.LU R5, [R1+0x10]", "BAR.SYNC.DEFER_BLOCKING 0x0", "@P2 BRA 0x50",
        "@P3 BRA 0x10", "BRA 0xe0",  # the outer loop, and the end
    )  # fmt: skip
    assert main_loop(code) == Loop(instructions=7, local=1, barriers=1, products=2, wgmma=2, alone=0)


def test_of_loops_with_as_many_products_the_main_one_is_the_shortest() -> None:
    masked = ("FSEL R1, R2, R3, P0", "FSEL R1, R2, R3, P0", *TOGETHER, "@P0 BRA 0x60")
    assert main_loop(listing(*TOGETHER, "FADD R1, R2, R3", "@P0 BRA 0x0", *masked)).instructions == 6


def test_products_that_are_waited_for_one_by_one_are_counted() -> None:
    assert main_loop(listing(*WAITED, *WAITED, *TOGETHER, "BRA 0x0")) == Loop(11, 0, 0, 4, 4, 2)


def test_products_of_another_kind_do_not_hide_that_every_wgmma_is_waited_for() -> None:
    loop = main_loop(listing(*WAITED, "HMMA.16816.F32.BF16 R4, R8, R12, R4", *WAITED, *WAITED, "BRA 0x0"))
    assert (loop.products, loop.wgmma, loop.alone) == (4, 3, 3)


def test_code_without_a_loop_has_none() -> None:
    assert main_loop(listing("FADD R1, R2, R3", "EXIT", "BRA 0x20")) == machine_code.NO_LOOP


@pytest.mark.parametrize(
    ("text", "found"), [("IADD3.X R0, R1, 0xc0000, RZ, P0", True), ("IADD3 R1, R1, -0x58, RZ", False)]
)
def test_a_descriptor_made_of_the_stack_pointer_is_found(text: str, found: bool) -> None:
    assert machine_code.stack_in_descriptor(listing("NOP", text)) is found


@pytest.mark.parametrize(
    ("registers", "shared", "warps", "programs"),
    [(255, 1, 4, 2), (255, 1, 8, 1), (128, 115_712, 4, 2), (128, 115_713, 4, 1), (168, 65_536, 4, 3), (16, 0, 4, 16)],
)
def test_programs_share_a_multiprocessor_as_its_registers_memory_and_warps_allow(
    registers: int, shared: int, warps: int, programs: int
) -> None:
    assert machine_code.resident(registers, shared, warps) == programs


LOOP = Loop(1000, 0, 0, 1, 1, 0)


def test_floors_follow_from_instructions_and_bytes() -> None:
    """1,048,576 rows of 128 + 128 features; 64 rows take 1,000 instructions on each of 4 warps."""
    found = floors.floors("broadcast_forward_kernel", {"BLOCK_N": 64}, LOOP, 4, SHAPES["hidden"], 2)
    assert found.row_bytes == 512
    assert found.issue_ms == pytest.approx(1e3 * 2**20 / 64 * 4000 / (132 * 4 * 1.755e9))
    assert found.byte_ms == pytest.approx(1e3 * 2**29 / 2.98e12)
    # 128 folded queries in blocks of 64 meet every element twice
    twice = floors.floors("scan_kernel", {"BLOCK_N": 64, "BLOCK_R": 64}, LOOP, 4, SHAPES["hidden"], 2)
    assert twice.issue_ms == pytest.approx(2 * found.issue_ms)
    # and once in blocks of 32 of all 4 heads
    heads = {"BLOCK_N": 64, "BLOCK_R": 32, "HEADS": 4}
    once = floors.floors("scan_heads_kernel", heads, LOOP, 4, SHAPES["hidden"], 2)
    assert once.issue_ms == pytest.approx(found.issue_ms)
    assert floors.floors("merge_kernel", {}, Loop(9, 0, 0, 0, 0, 0), 4, SHAPES["hidden"], 2) == floors.NO_FLOORS


def test_a_floor_that_rises_is_a_fault_and_one_that_was_never_recorded_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floors, "RECORDED", tmp_path / "floors.csv")
    floors.recorded.cache_clear()
    assert floors.rise("hidden", "scan_kernel", 1.0) == ""
    floors.save([("hidden", "scan_kernel", 1.0)])
    floors.save([("tabular", "scan_kernel", 2.0)])
    assert floors.rise("hidden", "scan_kernel", 1.01) == ""
    assert "1.000 ms when last recorded" in floors.rise("hidden", "scan_kernel", 1.03)
    assert "2.000 ms when last recorded" in floors.rise("tabular", "scan_kernel", 3.0)
    floors.recorded.cache_clear()
