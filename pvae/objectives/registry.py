"""The names of objectives on the command line, and what each one makes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyro.infer import ELBO, RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO

from pvae.errors import InputError
from pvae.names import parse, unknown
from pvae.objectives.adversarial.aae import AAE
from pvae.objectives.adversarial.ali import ALI
from pvae.objectives.adversarial.gan import GAN
from pvae.objectives.base import Objective
from pvae.objectives.bounds.iwae import IWAE, Renyi
from pvae.objectives.bounds.miwae import CIWAE, MIWAE, PIWAE
from pvae.objectives.bounds.reparameterised import DReG, StickingTheLanding
from pvae.objectives.bounds.score_function import VIMCO, ScoreFunction
from pvae.objectives.bounds.thermodynamic import Thermodynamic
from pvae.objectives.bounds.variance import LogVariance, VarianceRegularised
from pvae.objectives.dirac import Dirac
from pvae.objectives.kl.aggregate_posterior import InfoMMD, TotalCorrelation
from pvae.objectives.kl.constrained import Constrained
from pvae.objectives.kl.weighted_kl import Beta, Capacity, FreeBits
from pvae.objectives.phases.alternate import Alternate
from pvae.objectives.phases.wake_sleep import WakeSleep
from pvae.objectives.pyro.em import EM
from pvae.objectives.pyro.graph_elbo import GraphELBO
from pvae.objectives.pyro.pyro_losses import PyroObjective, adapt
from pvae.objectives.quantised import VectorQuantised
from pvae.objectives.semisupervised_elbo import SemiSupervised
from pvae.objectives.weights_objective import WeightsOptions

__all__ = ["OBJECTIVES", "NamedObjective", "describe", "make_objective", "objective_names", "untrained_by"]


def _elbo(particles: int = 1) -> ELBO:
    return Trace_ELBO(num_particles=_whole(particles), vectorize_particles=particles > 1)


def _elbo_analytic(particles: int = 1) -> ELBO:
    return TraceMeanField_ELBO(num_particles=_whole(particles), vectorize_particles=particles > 1)


def _elbo_enum(particles: int = 1) -> ELBO:
    return TraceEnum_ELBO(num_particles=_whole(particles), vectorize_particles=particles > 1)


def _whole(particles: Any) -> int:
    if not isinstance(particles, int) or isinstance(particles, bool) or particles < 1:
        raise InputError(f"particles must be a whole number of at least 1; got {particles!r}.")
    return particles


#: command-line name -> (constructor, one line on what it is)
OBJECTIVES: dict[str, tuple[Callable[..., Any], str]] = {
    "elbo": (_elbo, "pyro.infer.Trace_ELBO: reparameterised or score function"),
    "elbo-analytic": (_elbo_analytic, "pyro.infer.TraceMeanField_ELBO: KL in closed form where there is one"),
    "elbo-graph": (
        GraphELBO,
        "pyro.infer.TraceGraph_ELBO: score function with Rao-Blackwellisation and baselines",
    ),
    "elbo-enum": (_elbo_enum, "pyro.infer.TraceEnum_ELBO: discrete latents summed out"),
    "em": (EM, "EM for models with a closed-form M-step (gmm), by `compare`; elsewhere by gradients"),
    "iwae": (IWAE, "importance-weighted bound of several particles"),
    "miwae": (MIWAE, "mean of several importance-weighted bounds"),
    "ciwae": (CIWAE, "combination of ELBO and importance-weighted bound"),
    "piwae": (PIWAE, "theta by the importance-weighted bound, phi by the mean of several"),
    "renyi": (Renyi, "Rényi bound of order alpha"),
    "tvo": (Thermodynamic, "thermodynamic objective: a Riemann sum from the guide to the posterior; any guide"),
    "beta": (Beta, "beta-VAE: the KL weighted by beta, constant or warmed up"),
    "capacity": (Capacity, "the KL held at a capacity that grows"),
    "geco": (Constrained, "GECO: a target on reconstruction or on the KL, its multiplier learned"),
    "free-bits": (FreeBits, "no charge for a KL below a threshold, by unit, site or group"),
    "variance": (VarianceRegularised, "ELBO minus weight times the variance of the log weights"),
    "log-variance": (LogVariance, "VarGrad: phi by the variance of the log weights; any guide"),
    "info-mmd": (InfoMMD, "InfoVAE: the aggregate of the guide matched to the prior by an MMD"),
    "total-correlation": (TotalCorrelation, "beta-TCVAE: the total correlation of the aggregate weighted by beta"),
    "stl": (StickingTheLanding, "pathwise gradient without the guide's score; biased for particles > 1"),
    "dreg": (DReG, "IWAE with the doubly reparameterised guide gradient: less noise, unbiased"),
    "reinforce": (ScoreFunction, "ELBO by the score function, with a baseline; any guide"),
    "vimco": (VIMCO, "IWAE by the score function, leave-one-out; any guide"),
    "alternate": (Alternate, "theta for a fixed q, then phi for a fixed theta; phi=exact where enumerable"),
    "semi-supervised": (SemiSupervised, "M2: ELBO of labelled and hidden data, and a classifier's cross-entropy"),
    "dirac": (Dirac, "log p(x, z) at the guide's point: the noise-free limit, no bound"),
    "vq": (VectorQuantised, "vector-quantised models: straight-through gradients, codebook, commitment; biased"),
    "rws": (WakeSleep, "reweighted wake-sleep: theta by IWAE, phi by the inclusive KL; any guide"),
    "gan": (GAN, "p(x) matched to the data by a critic; the guide stays untrained"),
    "aae": (AAE, "reconstruction, and the aggregate of the guide matched to the prior by a critic"),
    "ali": (ALI, "ALI, BiGAN: pairs (x, z) of guide and model matched by a critic"),
}
_PYRO = {
    Trace_ELBO: "elbo",
    TraceMeanField_ELBO: "elbo-analytic",
    TraceGraph_ELBO: "elbo-graph",
    TraceEnum_ELBO: "elbo-enum",
    RenyiELBO: "RenyiELBO",
}


@dataclass(frozen=True)
class NamedObjective:
    """A factory that can be pickled: calling it makes the objective that its text names."""

    text: str

    def __call__(self) -> Objective:
        """Return a fresh objective."""
        name, settings = parse(self.text)
        if isinstance(settings.get("objective"), str):  # an objective inside another; its settings follow slashes
            settings["objective"] = make_objective(settings["objective"].replace("/", ":"))
        return adapt(OBJECTIVES[name][0](**settings))


def _settings(constructor: Callable[..., Any]) -> list[str]:
    """What can follow an objective's name; the options that every objective of weights takes among it."""
    parameters = inspect.signature(constructor).parameters.values()
    shared = WeightsOptions.__annotations__ if any(each.kind is each.VAR_KEYWORD for each in parameters) else {}
    return [each.name for each in parameters if each.kind is not each.VAR_KEYWORD] + list(shared)


def make_objective(text: str) -> NamedObjective:
    """Return a factory for the objective that `text` names, such as ``"renyi:alpha=0.5:particles=8"``.

    Raises:
        InputError: for an unknown name or setting (the nearest known one is named), or a value that is out of range.
    """
    name, settings = parse(text)
    if name not in OBJECTIVES:
        raise unknown("objective", name, OBJECTIVES)
    known = _settings(OBJECTIVES[name][0])
    for key in settings:
        if key not in known:
            raise unknown(f"setting of {name}", key, known)
    factory = NamedObjective(text)
    factory()
    return factory


def objective_names() -> list[tuple[str, str]]:
    """Return each name of the command line with a line on what it is."""
    return [(name, line) for name, (_, line) in OBJECTIVES.items()]


def untrained_by(text: str) -> tuple[str, ...]:
    """Return the groups that no player of an objective updates, by its text; none for one without a name."""
    made = OBJECTIVES.get(parse(text)[0], (None,))[0]
    groups: tuple[str, ...] = getattr(made, "untrained", ())
    return groups


def describe(objective: Any) -> str:
    """Return a name with settings, such as ``"iwae:particles=8"``, for tables and for the record of a run."""
    own = adapt(objective)
    named = [name for name, (made, _) in OBJECTIVES.items() if made is type(own)]
    if named:
        name = named[0]
    elif isinstance(own, PyroObjective):
        name = _PYRO.get(type(own.elbo), type(own.elbo).__name__)
    else:
        name = type(own).__name__
    settings = own.settings()
    if name.startswith("elbo") and settings.get("particles") == 1:
        settings.pop("particles")
    shown = {
        key: describe(value).replace(":", "/") if isinstance(value, Objective) else value
        for key, value in settings.items()
    }
    return ":".join([name, *(f"{key}={value}" for key, value in shown.items())])
