"""Pyro's `TraceGraph_ELBO` with its baselines chosen from outside the program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.infer import TraceGraph_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pvae.checks import require_whole
from pvae.names import unknown
from pvae.objectives.base import Call, Terms
from pvae.objectives.gradients.baselines import checked_decay, new_network, seen_by
from pvae.objectives.named import named
from pvae.objectives.pyro.pyro_losses import PyroObjective

__all__ = ["GraphELBO"]

_BASELINES = ("none", "decaying", "network")


class _Baselines(Messenger):
    """Gives a baseline to each site without a pathwise gradient and without one of its own.

    (Pyro's `infer_config` writes into the program's own dictionary, where a baseline would outlive its step.)
    """

    def __init__(self, baseline: Callable[[Any], dict[str, Any]]) -> None:
        super().__init__()
        self.baseline = baseline

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or "baseline" in msg["infer"] or getattr(msg["fn"], "has_rsample", True):
            return
        if hasattr(msg["fn"], "batch_shape"):  # the indices of a subsampled plate have none
            msg["infer"] = {**msg["infer"], "baseline": self.baseline(msg)}


@named("elbo-graph", "pyro.infer.TraceGraph_ELBO: score function with Rao-Blackwellisation and baselines")
class GraphELBO(PyroObjective):
    """`pyro.infer.TraceGraph_ELBO`: the score function with Rao-Blackwellisation, and baselines.

    Pyro reads baselines from each guide site's ``infer``; here one is set for every site that cannot be
    reparameterised and has none of its own.

    Args:
        baseline: ``"none"``, ``"decaying"`` (an average of earlier steps),
            ``"network"``, or a module from x to one number per datum, trained by least squares.
        particles: draws of z per datum, one run of the programs each.
        decay: of the decaying average, between 0 and 1.

    Raises:
        InputError: for an unknown baseline, or values out of range.
    Sources: Schulman et al., Gradient Estimation Using Stochastic Computation Graphs, arXiv:1506.05254; Mnih & Gregor,
        arXiv:1402.0030 (the baselines).
    """

    def __init__(self, baseline: str | nn.Module = "none", particles: int = 1, decay: float = 0.9) -> None:
        particles = require_whole(particles, "particles")
        if not isinstance(baseline, nn.Module) and baseline not in _BASELINES:
            raise unknown("baseline", str(baseline), _BASELINES)
        super().__init__(TraceGraph_ELBO(num_particles=particles))
        self.kind = "network" if isinstance(baseline, nn.Module) else baseline
        self.decay = checked_decay(decay)
        self._sizes: dict[str, int] = {}
        self.network: nn.Module | None = baseline if isinstance(baseline, nn.Module) else None
        if baseline == "network":
            self.network = new_network()

    def settings(self) -> dict[str, Any]:
        """Return the baseline where there is one, and the number of particles."""
        return {**({} if self.kind == "none" else {"baseline": self.kind}), **super().settings()}

    def terms(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return Pyro's loss of a batch, and what Pyro would have differentiated."""
        if self.kind == "none":
            return super().terms(model, guide, args, kwargs, player)
        made: dict[str, Tensor] = {}

        def baseline(site: Any) -> dict[str, Any]:
            return self._baseline(site, args, made)

        terms = super().terms(model, _Baselines(baseline)(guide), args, kwargs, player)
        if self.training and terms.surrogate.requires_grad:
            self._follow(terms.surrogate, made)
        return terms

    def _baseline(self, site: Any, args: Call, made: dict[str, Tensor]) -> dict[str, Any]:
        """Pyro's options for one site: a function, fitted by least squares, of what it is given."""
        shape = site["fn"].batch_shape
        while shape and shape[0] == 1:  # Pyro's costs have no leading dimensions of size 1
            shape = shape[1:]
        network = self.network
        if network is not None:
            return {
                "nn_baseline": lambda given: network(given).reshape(-1).expand(shape or (1,)).reshape(shape),
                "nn_baseline_input": seen_by(network, args),
            }
        name = "average_" + "".join(each if each.isalnum() else "_" for each in site["name"])
        if not hasattr(self, name):
            self.register_buffer(name, torch.zeros((), device=site["fn"].mean.device, dtype=torch.float64))
        if name not in made:
            made[name] = getattr(self, name).detach().clone().requires_grad_()
            self._sizes[name] = max(1, shape.numel())
        return {"nn_baseline": lambda given: made[name].expand(shape), "nn_baseline_input": made[name]}

    def _follow(self, surrogate: Tensor, made: Mapping[str, Tensor]) -> None:
        """Move each average towards the costs of this step.

        Pyro fits a baseline by the sum of squares of cost - baseline, whose derivative is -2 sum(cost - baseline): a
        step of (1 - decay) / 2 along its mean is the decaying average. Pyro's own keeps one average for each place in
        the batch, which means nothing, and fails on a smaller last batch.
        """
        if not made:
            return
        slopes = torch.autograd.grad(surrogate, list(made.values()), retain_graph=True)
        with torch.no_grad():
            for (name, _), slope in zip(made.items(), slopes, strict=True):
                getattr(self, name).sub_(slope * ((1 - self.decay) / 2 / self._sizes[name]))
