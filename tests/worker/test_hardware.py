"""Which GPU a training uses: as CUDA reads CUDA_VISIBLE_DEVICES."""

import pytest

from finlora_core.training.axolotl import Hardware
from worker.hardware import Gpu, detect, gpus_of, visible

A = "GPU-8f1c2d3e-0000-4000-8000-00000000000a"
B = "GPU-8e1c2d3e-0000-4000-8000-00000000000b"
C = "GPU-71c2d3e4-0000-4000-8000-00000000000c"
C1 = "MIG-11111111-0000-5000-8000-000000000001"
C2 = "MIG-22222222-0000-5000-8000-000000000002"
OLD_MIG = "MIG-GPU-71c2d3e4-0000-4000-8000-00000000000c/1/0"

GPUS = [Gpu(A), Gpu(B), Gpu(C, instances=(C1, C2))]


@pytest.mark.parametrize(
    ("listed", "devices"),
    [
        (None, [A, B]),
        ("0", [A]),
        ("1", [B]),
        ("1,0", [B, A]),
        (" 1 , 0", [B, A]),
        ("01", [B]),
        ("0,9", [A]),
        ("0,-1,1", [A]),
        ("0,0", [A]),
        (A, [A]),
        (B, [B]),
        (f"{B},{A}", [B, A]),
        ("GPU-8f", [A]),
        ("GPU-8e,GPU-8f", [B, A]),
        ("0,2,1", [A, B]),
        ("2,0", [C1]),
        (C1, [C1]),
        (C2, [C2]),
        ("MIG-2", [C2]),
        (f"{C1},{C2}", [C1]),
    ],
)
def test_the_entries_name_the_gpus(listed: str | None, devices: list[str]) -> None:
    """A part of a GPU is used alone: CUDA shows a process one, and no two train together."""
    assert list(visible(listed, GPUS)) == devices


HIDING = ["", " ", ",0", "-1", "-1,0", "3", "none", "void", "NoDevFiles", "0x1", "1.0", "²", "٣"]
UNKNOWN = ["GPU-8", "GPU-9", "8f1c2d3e", "MIG-3", "MIG-"]


@pytest.mark.parametrize("listed", [*HIDING, *UNKNOWN])
def test_an_entry_that_names_none_or_several_hides_every_gpu(listed: str) -> None:
    assert not visible(listed, GPUS)


@pytest.mark.parametrize("listed", ["2", C, "GPU-7", C1])
def test_of_a_gpu_that_is_cut_up_the_first_part_is_used(listed: str) -> None:
    """However two workers name it, they must agree."""
    assert list(visible(listed, GPUS)) == [C1]


def test_parts_are_named_as_old_drivers_did() -> None:
    assert list(visible(OLD_MIG, [Gpu(C, instances=(OLD_MIG,))])) == [OLD_MIG]


@pytest.mark.parametrize("listed", [None, "0", A, "GPU-8f"])
def test_without_a_gpu_none_is_visible(listed: str | None) -> None:
    assert not visible(listed, [])


def test_a_training_on_the_cpu_needs_no_gpu() -> None:
    assert not gpus_of(Hardware.CPU)


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_where_every_gpu_is_hidden_the_cpu_is_used(
    monkeypatch: pytest.MonkeyPatch, hidden: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert not gpus_of(Hardware.CUDA)
    assert detect("auto") is Hardware.CPU
    assert detect("cuda") is Hardware.CUDA
    assert detect("cpu") is Hardware.CPU
