"""The examples of docs/examples that are written in plain Pyro: how to make, train and score each of them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyro
from pyro.infer import ELBO, SVI, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from pyro.infer.autoguide import AutoNormal

import pvae

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "examples"
if str(FOLDER) not in sys.path:
    sys.path.insert(0, str(FOLDER))


@dataclass(frozen=True)
class Example:
    """One example.

    Attributes:
        file: the name of its module.
        loss: makes the loss of Pyro that suits it.
        objective: the name of the same loss in pvae.
        arguments: arguments of its `make`.
        data_arguments: arguments of its `make_data`.
        fields: the fields of its data that the programs get; None for all.
        scale: the factor by which its programs scale all log-densities.
        step: the option `step` of `fit`; "eager" for programs that no graph can hold.
    """

    file: str
    loss: Callable[[], ELBO]
    objective: str
    arguments: tuple[Any, ...] = ()
    data_arguments: dict[str, Any] = field(default_factory=dict)
    fields: tuple[str, ...] | None = None
    step: str = "auto"
    scale: float = 1.0

    @property
    def is_point_estimate(self) -> bool:
        """Whether its guide is an AutoDelta, whose draws have no density."""
        return self.file in ("mixture", "hmm") and AutoNormal not in self.arguments

    @property
    def module(self) -> Any:
        return importlib.import_module(self.file)

    def make(self) -> Any:
        return self.module.make(*self.arguments)

    def data(self) -> dict[str, Any]:
        data = self.module.make_data(**self.data_arguments)
        return {name: data[name] for name in self.fields or data}

    def batch(self) -> pvae.Batch:
        return pvae.Batch(**self.data())

    def splits(self) -> pvae.Splits:
        """Return the data for training, and the same data for the evaluation: some programs fit these data alone."""
        data = self.data()
        return pvae.load_data({**data, **{f"{name}_test": value for name, value in data.items()}}, validation=0)


def enumerated(nesting: int) -> Callable[[], ELBO]:
    return lambda: TraceEnum_ELBO(max_plate_nesting=nesting)


EXAMPLES = {
    "mixture": Example("mixture", enumerated(1), "elbo-enum"),
    "mixture, AutoNormal": Example("mixture", enumerated(1), "elbo-enum", (AutoNormal,)),
    "regression": Example("bayesian_regression", Trace_ELBO, "elbo"),
    "eight schools": Example("eight_schools", Trace_ELBO, "elbo"),
    "hmm 1": Example("hmm", enumerated(2), "elbo-enum", (1,)),
    "hmm 1, AutoNormal": Example("hmm", enumerated(2), "elbo-enum", (1, AutoNormal)),
    "hmm 2": Example("hmm", enumerated(2), "elbo-enum", (2,)),
    "hmm 3": Example("hmm", enumerated(2), "elbo-enum", (3,)),
    "lda": Example("lda", enumerated(2), "elbo-enum"),
    "sparse gamma": Example("sparse_gamma_def", Trace_ELBO, "elbo"),
    "cvae": Example("cvae", Trace_ELBO, "elbo", data_arguments={"size": 40}, step="eager"),
    "ss-vae, labelled": Example("ssvae", Trace_ELBO, "elbo", data_arguments={"size": 40}),
    "ss-vae, unlabelled": Example("ssvae", enumerated(1), "elbo-enum", data_arguments={"size": 40}, fields=("x",)),
    "scanvi": Example("scanvi", enumerated(1), "elbo-enum"),
    "scanvi, no factor": Example("scanvi", enumerated(1), "elbo-enum", (0.0,), scale=0.1),
    "dmm": Example("dmm", Trace_ELBO, "elbo", data_arguments={"size": 20}, step="eager"),
    "air": Example("air", TraceGraph_ELBO, "elbo-graph", data_arguments={"size": 20}),
}


def svi_losses(example: Example, loss: Any, steps: int = 3) -> list[float]:
    """Return the losses of the first steps of plain SVI, from one seed and in a param store of its own."""
    with pyro.get_param_store().scope():
        pyro.set_rng_seed(1)
        programs = example.make()
        svi = SVI(programs.model, programs.guide, pyro.optim.Adam({"lr": 0.02}), loss=loss)
        arguments = tuple(example.data().values())
        programs.guide(*arguments)  # makes the parameters, some of them at random
        pyro.set_rng_seed(2)
        return [svi.step(*arguments) for _ in range(steps)]
