"""`adapt`: turns any loss that `pyro.infer.SVI` accepts into an `Objective`."""

from __future__ import annotations

import copy
from typing import Any

from pyro.infer import (
    ELBO,
    MCMC,
    SVGD,
    SVI,
    Importance,
    JitTrace_ELBO,
    JitTraceEnum_ELBO,
    JitTraceGraph_ELBO,
    JitTraceMeanField_ELBO,
    SMCFilter,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.infer.svgd import SteinKernel

from pvae.errors import InputError
from pvae.objectives.base import Objective
from pvae.objectives.pyro.loss_function import LossFunction, is_loss_function
from pvae.objectives.pyro.pyro_losses import PyroObjective

__all__ = ["adapt"]

_WITHOUT_JIT: dict[type, type] = {
    JitTrace_ELBO: Trace_ELBO,
    JitTraceEnum_ELBO: TraceEnum_ELBO,
    JitTraceGraph_ELBO: TraceGraph_ELBO,
    JitTraceMeanField_ELBO: TraceMeanField_ELBO,
}

#: advice for each class of `pyro.infer` that is not a loss
_NO_LOSS: dict[type, str] = {
    SVI: "it trains by a loss; pass that loss, such as pyro.infer.Trace_ELBO()",
    SVGD: "it moves particles and has no guide; call its step yourself, or use 'elbo' with an autoguide",
    SteinKernel: "it is a kernel of SVGD, which has no guide; use 'elbo' with an autoguide",
    MCMC: "it draws from the posterior and has no guide; call its run yourself, or use 'elbo' with an autoguide",
    Importance: "it draws from a guide that is trained already; use 'rws:phi=sleep' to train one as CSIS does, and "
    "pvae.evaluate.log_evidence for the evidence",
    SMCFilter: "it filters by a guide that is trained already; use 'iwae' to train one",
}


def adapt(objective: Any) -> Objective:
    """Return an `Objective`: the objective itself, a wrapped loss of Pyro, or the result of a class or factory.

    `pyro.infer.JitTrace_ELBO` and others with ``Jit`` become the losses without it, which have the same values and
    gradients; ``step="graph"`` of `pvae.fit` makes their steps fast.

    Args:
        objective: an `Objective`; a loss of `pyro.infer`; a function ``loss(model, guide, *args, **kwargs)`` that
            returns a tensor, as `pyro.infer.SVI` takes it; or a callable without arguments that returns one of them.

    Raises:
        InputError: for anything else. For a class of `pyro.infer` that is not a loss, the error names an alternative.
    """
    if isinstance(objective, Objective):
        return objective
    if isinstance(objective, ELBO):
        return PyroObjective(_without_jit(objective))
    kind = objective if isinstance(objective, type) else type(objective)
    advice = next((advice for no_loss, advice in _NO_LOSS.items() if issubclass(kind, no_loss)), None)
    if advice is not None:
        raise InputError(f"{kind.__name__} of pyro.infer is not a loss: {advice}.")
    if is_loss_function(objective):
        return LossFunction(objective)
    if callable(objective):
        return adapt(objective())
    raise InputError(
        f"An objective needs to be a pvae.Objective, a loss of pyro.infer or a factory of one; got "
        f"{type(objective).__name__}."
    )


def _without_jit(elbo: ELBO) -> ELBO:
    """Return the loss without ``Jit`` in its name, with the same settings; other losses are returned unchanged."""
    plain = _WITHOUT_JIT.get(type(elbo))
    if plain is None:
        return elbo
    elbo = copy.copy(elbo)
    elbo.__class__ = plain
    return elbo
