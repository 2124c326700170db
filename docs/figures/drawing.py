"""What the scripts of this folder share: their command line, and the look of a panel."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from matplotlib.axes import Axes

from pvae.plots.base import INK


class Drawn(Protocol):
    """A figure, or another picture that can be written."""

    def savefig(self, path: Path, dpi: int) -> None:
        """Write the picture."""


def panel(axes: Axes, title: str, xlabel: str, ylabel: str = "") -> Axes:
    """Give an axes its words, and the look of pvae's own figures."""
    axes.set_title(title, color=INK, fontsize=10)
    axes.set_xlabel(xlabel, color=INK)
    axes.set_ylabel(ylabel, color=INK)
    axes.tick_params(colors=INK, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


def command(name: str, draw: Callable[[bool], Drawn]) -> None:
    """Draw a figure into the folder that ``--out`` names; ``--tiny`` takes few draws, to try the script."""
    parser = argparse.ArgumentParser(description=f"Draw {name}.png.")
    parser.add_argument("--out", type=Path, default=Path("."), help="an existing folder")
    parser.add_argument("--tiny", action="store_true", help="few draws: quick, and not to be looked at")
    options = parser.parse_args()
    draw(options.tiny).savefig(options.out / f"{name}.png", dpi=110)
    print(options.out / f"{name}.png")
