"""An operation that the free memory cannot hold is refused, and a run takes the largest size that fits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pvae.errors import InputError
from pvae.memory import PeakMemory
from pvae.programs.fitting_runs import run_within_memory
from pvae.programs.memory_growth import MemoryGrowth
from pvae.programs.memory_limit import FreeMemoryLimit, needs_limit

COLUMN = torch.ones(1000, 1)
TABLE = torch.ones(500, 20)
OPERATIONS = {
    "outer product": lambda: COLUMN * COLUMN.T,
    "matrix product": lambda: COLUMN @ COLUMN.T,
    "expanded": lambda: COLUMN.expand(1000, 1000).exp(),
    "distances": lambda: torch.cdist(TABLE.repeat(2, 1), TABLE.repeat(2, 1)),
    "stack": lambda: torch.stack([COLUMN[:, 0]] * 1000),
    "factory": lambda: torch.zeros(1000, 1000),
    "random numbers": lambda: torch.randn(1000, 1000),
    "convolution": lambda: torch.conv_transpose2d(torch.ones(1, 1, 10, 10), torch.ones(1, 100, 10, 10), stride=10),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_of_four_megabytes_is_refused_before_it_runs(
    name: str, set_free_memory: Callable[[float | None], None]
) -> None:
    set_free_memory(4_900_000)
    with (
        pytest.raises(InputError, match=r"more than 4(\.\d+)? MB of memory on cpu; 4\.9 MB are free, of which 80% may"),
        PeakMemory() as peak,
        FreeMemoryLimit("cpu") as limit,
    ):
        OPERATIONS[name]()
    assert limit.needed is not None and limit.needed >= 4_000_000 and peak.bytes < 200_000
    set_free_memory(5_300_000)
    with FreeMemoryLimit("cpu") as limit:
        OPERATIONS[name]()
    assert limit.needed is None


def test_tensors_that_are_held_count_and_views_do_not(set_free_memory: Callable[[float | None], None]) -> None:
    set_free_memory(12_500)
    with FreeMemoryLimit("cpu") as limit:
        kept = torch.zeros(1000)
        kept.view(10, 100).add_(1.0)
        for _ in range(5):
            kept.exp()
        with pytest.raises(InputError, match="more than 12000 bytes"):
            _ = kept.exp() * kept.exp()
    assert limit.bytes == 8000 and limit.needed == 12_000


def allocate(size: int) -> int:
    torch.zeros(size, 250)  # 1000 bytes for each unit of the size
    return size


@pytest.mark.parametrize(("wanted", "fitting"), [(80, 80), (120, 40), (10_000, 40), (10**9, 39)])
def test_a_run_takes_the_largest_size_that_leaves_memory(
    wanted: int, fitting: int, set_free_memory: Callable[[float | None], None]
) -> None:
    set_free_memory(100_000)
    with PeakMemory() as peak:
        run = run_within_memory(allocate, wanted, "cpu", least="One", advice="Stop.")
    assert run.result == run.size and run.size <= fitting and run.size > 0.6 * fitting
    assert peak.bytes <= 80_000
    assert bool(run.shortage) == (wanted > 80)
    set_free_memory(None)
    assert run_within_memory(lambda size: size, wanted, "cpu", least="One", advice="Stop.").size == wanted


def test_small_runs_show_what_the_wanted_size_needs(set_free_memory: Callable[[float | None], None]) -> None:
    set_free_memory(100_000)
    shortage = run_within_memory(allocate, 160, "cpu", least="One", advice="Stop.").shortage
    assert shortage == "needs about 160000 bytes of memory on cpu; 100000 bytes are free, of which 80% may be used."
    set_free_memory(999)
    with pytest.raises(InputError, match=r"^One needs more than 1000 bytes .* 999 bytes are free, .* used\. Stop\.$"):
        run_within_memory(allocate, 8, "cpu", least="One", advice="Stop.")


def test_every_attempt_draws_the_same_numbers(set_free_memory: Callable[[float | None], None]) -> None:
    set_free_memory(100_000)
    draws = []

    def run(size: int) -> None:
        draws.append(float(torch.rand(())))
        allocate(size if size > 20 else 1)  # small runs do not show the growth

    state = torch.get_rng_state()
    assert run_within_memory(run, 150, "cpu", least="One", advice="Stop.").size == 37  # 75 does not leave enough
    assert len(draws) == 5 and draws[2:] == [draws[0]] * 3
    torch.set_rng_state(state)


def test_errors_of_a_run_stay_and_programs_of_a_fixed_size_are_refused(
    set_free_memory: Callable[[float | None], None],
) -> None:
    set_free_memory(9_999)

    def fixed(size: int) -> None:
        torch.zeros(size, 250)
        if size != 20:
            raise IndexError("20 data")

    with pytest.raises(IndexError, match="20 data"):
        run_within_memory(fixed, 5, "cpu", least="All data", advice="Stop.")
    with pytest.raises(InputError, match=r"^All data needs more than 20000 bytes"):
        run_within_memory(fixed, 20, "cpu", least="All data", advice="Stop.")


def test_growth_is_measured_once_parameters_matter_little(set_free_memory: Callable[[float | None], None]) -> None:
    set_free_memory(1e9)

    def run(size: int) -> None:
        torch.zeros(4000)  # 16 kB at first, whatever the size
        _ = torch.zeros(size, 250)  # then 1 kB for each unit

    growth = MemoryGrowth.measure(run, 2, 1000, "cpu")
    assert growth is not None and growth.needed(1000) == pytest.approx(1e6, rel=0.01)
    assert growth.largest_size(0.0005) == pytest.approx(500, rel=0.01)
    assert MemoryGrowth.measure(lambda size: {}[size], 2, 1000, "cpu") is None


def test_only_runs_that_may_be_large_have_a_limit(set_free_memory: Callable[[float | None], None]) -> None:
    model, batch = torch.nn.Linear(10, 10), {"x": torch.zeros(100, 10)}
    set_free_memory(1e9)
    assert not needs_limit(model, batch, 100)
    assert needs_limit(model, batch, 100_000)
    set_free_memory(None)
    assert not needs_limit(model, batch, 100_000)
