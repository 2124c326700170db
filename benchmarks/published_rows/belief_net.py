"""A sigmoid belief net on static MNIST, trained by VIMCO: the table of Mnih and Rezende."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pvae
from published_rows.lines import Budget, Cell, Line, PublishedRow, Target
from published_rows.training import EVERY_SMOKE, load, minus_log_evidence, train

__all__ = ["BELIEF_NET"]

_EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "sigmoid_belief_net.py"


def _measure(cell: Cell) -> dict[str, Any]:
    settings = cell.settings
    data = load(settings, binarise="static" if settings["data"] == "digits" else "none")
    spec = pvae.ModelSpec(f"{_EXAMPLE}:SigmoidBeliefNet", {"layers": settings["layers"]})
    if settings.get("on_validation"):
        data = replace(data, test=data.validation)
    run = train(spec, data, cell.line.settings["objective"], cell)
    return minus_log_evidence(run, data, settings["particles"])


_COMMON = {
    "data": "mnist_static", "images": None, "layers": (200, 200, 200), "learning_rate": 1e-3, "batch_size": 24,
    "optimiser": "adam:betas=0.95,0.999",
}  # fmt: skip
BELIEF_NET = PublishedRow(
    title="A sigmoid belief net by VIMCO",
    source=(
        "Mnih and Rezende, Variational Inference for Monte Carlo Objectives, ICML 2016 (arXiv:1602.06725): static "
        "MNIST, three layers of 200 units, VIMCO with five particles."
    ),
    quantity="Minus the log evidence of test images in nats per image; smaller is better.",
    lines=(
        Line(
            "vimco-5",
            "VIMCO, 5 particles",
            (
                Target("Mnih and Rezende", 93.6, 2.0),
                Target("y0ast/VIMCO, 2000 epochs", 91.65, 2.0),
                Target("y0ast/VIMCO, one epoch", 145.71, 10.0, budget="short"),
            ),
            settings={"objective": "vimco:particles=5"},
        ),
    ),
    budgets={
        "smoke": Budget(
            1,
            {**EVERY_SMOKE, "layers": (8, 8)},
            "The data are 100 digits of 8 x 8 pixels, binarised once; one epoch, layers of 8 and 8 units, 10 "
            "particles.",
        ),
        "short": Budget(
            2,
            {**_COMMON, "validation": None, "test": None, "on_validation": True, "epochs": 1, "particles": 5},
            "The data are the 50000 training images of static MNIST. The training takes one epoch in batches of 24 "
            "by Adam 1e-3 with betas 0.95 and 0.999. The number is minus the bound of five particles on all 10000 "
            "validation images, as in the log of the repository y0ast/VIMCO.",
        ),
        "full": Budget(
            3,
            {
                **_COMMON,
                "validation": None,
                "test": None,
                "epochs": 2000,
                "particles": 1000,
            },
            "The data are the 50000 training images of static MNIST. The training takes 2000 epochs in batches of 24 "
            "by Adam 1e-3 with betas 0.95 and 0.999. The parameters with the best bound on the validation images are "
            "kept. All 10000 test images are evaluated with 1000 particles.",
        ),
    },
    measure=_measure,
    shortfall=(
        "The budget `short` takes 2083 steps, and the rerun 4.2 million. Such a network learns slowly: the log of "
        "the rerun shows 145.7 on the validation images after one epoch, and 96.2 after 2000. The first of these is "
        "the comparison at the budget `short`. It is a coarse one: the rerun's Adam corrects its moments by the number "
        "of epochs in place of steps, and has 1e-6 under the square root."
    ),
    tolerances=(
        "The paper and the rerun differ by 1.95 nats, so the tolerance is 2. The tolerance of 10 after one epoch is a "
        "choice, made before the measurement."
    ),
    deviations=(
        "The settings are those of the repository y0ast/VIMCO, which follows the paper. It keeps the last "
        "parameters; this row keeps the best ones on validation images."
    ),
)
