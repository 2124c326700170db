"""Simulate the verdict of a comparison: false alarms among equal rows, and the power on a true gain.

    python benchmarks/verdict.py [--studies 2000]

Each study draws the log evidence of each row, seed and datum: the datum's own share (standard deviation 25 nats, the
same in all rows), the luck of a seed, an interaction of row and datum, and noise. It prints the tables of
docs/verdict.md.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from pvae.comparison.table.conclusions import LEVEL
from pvae.comparison.table.row_difference import estimate_difference
from pvae.evaluate.holm import adjust_by_holm

ROWS, SEEDS = (2, 4, 8), (2, 3, 5, 10)
KINDS = {
    "luck of seeds dominates": {"luck": 2.0, "noise": 0.5},
    "luck of 0.2, 1000 data": {"data": 1000},
    "rows differ by datum": {"luck": 0.5, "interaction": 2.0},
    "heavy tails over data (t, 2 df)": {"luck": 0.5, "interaction": 2.0, "heavy": True},
    "four data": {"luck": 0.5, "interaction": 2.0, "data": 4},
    "luck 30 times as large in the last row": {"luck": 0.1, "noise": 0.5, "wide": -1},
    "luck 30 times as large in the first row": {"luck": 0.1, "noise": 0.5, "wide": 0},
}


def draw_studies(
    studies: int,
    rows: int,
    seeds: int,
    *,
    data: int = 20,
    luck: float = 0.2,
    noise: float = 2.1,
    interaction: float = 0.0,
    heavy: bool = False,
    wide: int | None = None,
    gain: float = 0.0,
    seed: int | None = None,
) -> Tensor:
    """Return log evidences, shape (studies, rows, seeds, data), nats; the gain is that of the second row."""
    generator = torch.Generator().manual_seed(rows + 100 * seeds if seed is None else seed)

    def draw(*shape: int) -> Tensor:
        normal = torch.randn(studies, *shape, generator=generator, dtype=torch.float64)
        if not heavy:
            return normal
        return normal / torch.randn(2, *normal.shape, generator=generator, dtype=torch.float64).square().mean(0).sqrt()

    spread = torch.full((rows, 1, 1), luck, dtype=torch.float64)
    if wide is not None:
        spread[wide] *= 30
    values = 25 * torch.randn(studies, 1, 1, data, generator=generator, dtype=torch.float64)
    values = values + spread * torch.randn(studies, rows, seeds, 1, generator=generator, dtype=torch.float64)
    values = values + noise * draw(rows, seeds, data) + interaction * draw(rows, 1, data)
    values[:, 1] += gain
    return values


def adjusted_p_values(values: Tensor) -> Tensor:
    """Return the adjusted p-values of all rows but the first, shape (studies, rows - 1)."""
    tests = [estimate_difference(values[:, row] - values[:, 0]) for row in range(1, values.shape[1])]
    return adjust_by_holm(torch.stack([test.p_value for test in tests], dim=-1))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    studies = parser.parse_args().studies
    print("| log evidences | rows | " + " | ".join(f"{seeds} seeds" for seeds in SEEDS) + " |")
    for name, settings in KINDS.items():
        few = studies // 4 if settings.get("data", 0) > 100 else studies
        for rows in ROWS:
            rates = []
            for seeds in SEEDS:
                found = adjusted_p_values(draw_studies(few, rows, seeds, **settings)) <= LEVEL
                rates.append(f"{100 * float(found.any(-1).double().mean()):.1f} %")
            print(f"| {name} | {rows} | {' | '.join(rates)} |", flush=True)
    print("\n| gain | rows | " + " | ".join(f"{seeds} seeds" for seeds in SEEDS) + " |")
    for gain in (0.5, 1.0, 3.0):
        for rows in ROWS:
            powers = []
            for seeds in SEEDS:
                found = adjusted_p_values(draw_studies(studies // 4, rows, seeds, data=1000, gain=gain))[:, 0] <= LEVEL
                powers.append(f"{100 * float(found.double().mean()):.0f} %")
            print(f"| {gain:g} nats | {rows} | {' | '.join(powers)} |", flush=True)


if __name__ == "__main__":
    main()
