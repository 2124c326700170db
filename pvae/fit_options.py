"""The options of `pvae.fit` that a run records, declared once: name, type, default, choices and a line of help.

`pvae.fit` takes its default values from here, `pvae.train.options.Options` its fields, and the command line its
flags. This file does not import torch, so `pvae train --help` answers at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["MATMULS", "FitOptions", "PriorFitOptions", "matmul_help"]

#: How matrix products may be computed: by the fastest library, or by torch alone.
MATMULS = ("auto", "aten")


def _metadata(help_text: str, choices: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the metadata of a field: the help of its flag, and its possible values if these are few."""
    return {"help": help_text, "choices": choices}


def matmul_help(products: str) -> str:
    """Return the help of an option with the values `MATMULS`.

    Args:
        products: the products, such as ``"the matrix products"``.
    """
    return f"Library for {products}: auto is the fastest one for each shape; aten is torch."


@dataclass(frozen=True)
class FitOptions:
    """The options of a training with their defaults. The docstring of `pvae.fit` describes each in full."""

    epochs: int = field(
        default=50,
        metadata=_metadata("Number of passes over the training data, including the passes of a resumed run."),
    )
    batch_size: int = field(default=100, metadata=_metadata("Number of data in one step."))
    learning_rate: float | Mapping[str, float] = field(
        default=1e-3,
        metadata=_metadata("Step size of the optimiser, or one for each parameter group: theta=1e-3,phi=3e-4."),
    )
    optimiser: Any = field(
        default="adam", metadata=_metadata("Optimiser of torch.optim, with settings after colons: sgd:momentum=0.9.")
    )
    schedule: Any = field(
        default=None,
        metadata=_metadata(
            "Learning-rate schedule of torch.optim.lr_scheduler: exponential:gamma=0.99. [default: none]"
        ),
    )
    device: str = field(
        default="auto", metadata=_metadata("cpu, cuda, cuda:1, xpu or mps; auto uses CUDA if there is a CUDA device.")
    )
    precision: str = field(
        default="float32",
        metadata=_metadata(
            "Number format of the parameters and data; bfloat16 means float32 parameters and bfloat16 operations, tf32 "
            "float32 with faster, coarser products on CUDA.",
            ("float32", "float64", "bfloat16", "tf32"),
        ),
    )
    step: str = field(
        default="auto",
        metadata=_metadata(
            "Method of executing a step. graph traces a step once and replays it; compile compiles the graph too; auto "
            "is "
            "graph, or compile if the training is long; capture launches a graph as one CUDA graph.",
            ("auto", "eager", "graph", "compile", "capture"),
        ),
    )
    matmul: str = field(
        default=MATMULS[0],
        metadata=_metadata(
            matmul_help("the matrix products of a graph"),
            MATMULS,
        ),
    )
    seed: int = field(
        default=0, metadata=_metadata("Seed of the initial parameters, the order of the data and all draws.")
    )
    clip: float | None = field(
        default=None, metadata=_metadata("Largest norm of the whole gradient, per datum. [default: no clipping]")
    )
    patience: int | None = field(
        default=None,
        metadata=_metadata("Stop after this number of epochs without a better validation bound. [default: never]"),
    )
    validation_particles: int = field(
        default=100, metadata=_metadata("Number of draws of z per datum for the validation bound.")
    )
    validation_limit: int = field(
        default=500,
        metadata=_metadata("Compute the validation bound on at most this number of data, drawn at random with seed 0."),
    )
    on_divergence: str = field(
        default="stop",
        metadata=_metadata(
            "Reaction to a number that is not finite. rollback restores the last good state and halves the learning "
            "rate.",
            ("stop", "rollback"),
        ),
    )
    threads: int | None = field(
        default=None,
        metadata=_metadata(
            "Number of CPU threads of torch. [default: torch's own number; in a comparison at most cores / workers]"
        ),
    )
    max_steps: int | None = field(
        default=None, metadata=_metadata("Stop after this number of steps. [default: no limit]")
    )
    max_seconds: float | None = field(
        default=None,
        metadata=_metadata("Stop after this training time in seconds, without validation. [default: no limit]"),
    )
    max_evaluations: int | None = field(
        default=None,
        metadata=_metadata(
            "Stop before the number of decoder evaluations (particles x data) exceeds this. [default: no limit]"
        ),
    )
    checkpoint_seconds: float = field(default=30.0, metadata=_metadata("Number of seconds between two checkpoints."))


@dataclass(frozen=True)
class PriorFitOptions:
    """The options of a fit of a prior by gradients. The docstring of `pvae.fit_prior` describes each in full."""

    epochs: int = 100
    batch_size: int = 200
    learning_rate: float = 1e-3
    seed: int = 0
