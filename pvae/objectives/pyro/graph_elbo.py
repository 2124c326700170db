"""`GraphELBO`: Pyro's `TraceGraph_ELBO` with baselines that the objective chooses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.infer import TraceGraph_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pvae.checks import require_whole
from pvae.names import unknown
from pvae.objectives.base import Terms
from pvae.objectives.gradients.baselines import baseline_input, checked_decay, kind_and_network
from pvae.objectives.named import named
from pvae.objectives.pyro.pyro_losses import PyroObjective
from pvae.programs.bound import BoundPrograms
from pvae.programs.program_in_context import with_guide_in
from pvae.programs.sites import Site, is_subsample

__all__ = ["GraphELBO"]

_BASELINES = ("none", "decaying", "network")


class _BaselineMessenger(Messenger):
    """Gives a baseline to each site that has neither a pathwise gradient nor its own baseline.

    Pyro's `infer_config` is not used, because it changes the program's own dictionary, so a baseline would remain after
    its step.

    Args:
        make_baseline: a function from a site to Pyro's options for its baseline.
    """

    def __init__(self, make_baseline: Callable[[Site], dict[str, Any]]) -> None:
        super().__init__()
        self.make_baseline = make_baseline

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or is_subsample(msg) or "baseline" in msg["infer"]:
            return
        if not getattr(msg["fn"], "has_rsample", True):
            msg["infer"] = {**msg["infer"], "baseline": self.make_baseline(msg)}


@named("elbo-graph", "pyro.infer.TraceGraph_ELBO: score function with Rao-Blackwellisation and baselines")
class GraphELBO(PyroObjective):
    """`pyro.infer.TraceGraph_ELBO`: the score function with Rao-Blackwellisation, and baselines.

    Pyro reads the baseline of a guide site from its ``infer``. This objective sets a baseline for every site that
    cannot be reparameterised and does not have its own baseline.

    Args:
        baseline: ``"none"``, ``"decaying"`` (an average of earlier steps),
            ``"network"``, or a module from x to one number per datum, trained by least squares.
        particles: draws of z per datum, each by a run of the programs.
        decay: the decay of the decaying average, between 0 and 1.

    Raises:
        InputError: for an unknown baseline, or a number out of its range.

    Sources: Schulman et al., Gradient Estimation Using Stochastic Computation Graphs, arXiv:1506.05254; Mnih & Gregor,
        arXiv:1402.0030 (the baselines).
    """

    def __init__(self, baseline: str | nn.Module = "none", particles: int = 1, decay: float = 0.9) -> None:
        particles = require_whole(particles, "particles")
        if not isinstance(baseline, nn.Module) and baseline not in _BASELINES:
            raise unknown("baseline", str(baseline), _BASELINES)
        super().__init__(TraceGraph_ELBO(num_particles=particles))
        self.decay = checked_decay(decay)
        self._sizes: dict[str, int] = {}
        self.kind: str
        self.network: nn.Module | None
        self.kind, self.network = kind_and_network(baseline)

    def settings(self) -> dict[str, Any]:
        """Return the baseline if there is one, and the number of particles."""
        return {**({} if self.kind == "none" else {"baseline": self.kind}), **super().settings()}

    def terms(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return Pyro's loss of a batch, and the tensor that Pyro differentiates as its surrogate."""
        programs = BoundPrograms(model, guide, args, kwargs)
        if self.kind == "none":
            return self._pyro_terms(programs)
        averages: dict[str, Tensor] = {}

        def make_baseline(site: Site) -> dict[str, Any]:
            return self._baseline_options(site, args, averages)

        terms = self._pyro_terms(with_guide_in(lambda: _BaselineMessenger(make_baseline), programs))
        if self.training and terms.surrogate.requires_grad:
            self._update_averages(terms.surrogate, averages)
        return terms

    def _baseline_options(self, site: Site, args: tuple[Any, ...], averages: dict[str, Tensor]) -> dict[str, Any]:
        """Return Pyro's options for the baseline of one site: a function, fitted by least squares, and its input.

        Args:
            site: a site without a pathwise gradient.
            args: the positional arguments of the programs.
            averages: the decaying averages of this step by name; the average of the site is added.
        """
        shape = site["fn"].batch_shape
        while shape and shape[0] == 1:  # Pyro's costs have no leading dimensions of size 1
            shape = shape[1:]
        network = self.network
        if network is not None:
            return {
                "nn_baseline": lambda x: network(x).reshape(-1).expand(shape or (1,)).reshape(shape),
                "nn_baseline_input": baseline_input(network, args),
            }
        name = "average_" + "".join(letter if letter.isalnum() else "_" for letter in site["name"])
        if not hasattr(self, name):
            self.register_buffer(name, torch.zeros((), device=site["fn"].mean.device, dtype=torch.float64))
        if name not in averages:
            averages[name] = getattr(self, name).detach().clone().requires_grad_()
            self._sizes[name] = max(1, shape.numel())
        return {"nn_baseline": lambda average: averages[name].expand(shape), "nn_baseline_input": averages[name]}

    def _update_averages(self, surrogate: Tensor, averages: Mapping[str, Tensor]) -> None:
        """Move each average towards the costs of this step.

        Pyro fits a baseline by the sum of squares of cost - baseline, with derivative -2 sum(cost - baseline). A step
        of (1 - decay) / 2 along its mean is the decaying average. Pyro's own decaying average is not used: it keeps one
        average for each row of the batch, which has no meaning, and it fails on a smaller last batch.

        Args:
            surrogate: the surrogate of this step.
            averages: the averages of this step by name, scalars that the surrogate depends on.
        """
        if not averages:
            return
        gradients = torch.autograd.grad(surrogate, list(averages.values()), retain_graph=True)
        with torch.no_grad():
            for name, gradient in zip(averages, gradients, strict=True):
                getattr(self, name).sub_(gradient * ((1 - self.decay) / 2 / self._sizes[name]))
