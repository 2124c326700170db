"""Objectives: what inference algorithms optimise. Each is a Pyro loss and a module."""

from importlib import import_module
from typing import Any

from pvae.objectives.adversarial.aae import AAE
from pvae.objectives.adversarial.ali import ALI
from pvae.objectives.adversarial.base import Adversarial
from pvae.objectives.adversarial.critics import LOSSES, CriticLoss
from pvae.objectives.adversarial.factor_vae import FactorVAE
from pvae.objectives.adversarial.gan import GAN
from pvae.objectives.adversarial.sides import Sides
from pvae.objectives.adversarial.vae_gan import VAEGAN
from pvae.objectives.base import Objective, ObjectiveModule, Terms
from pvae.objectives.bounds.iwae import IWAE, Renyi
from pvae.objectives.bounds.miwae import CIWAE, MIWAE, PIWAE
from pvae.objectives.bounds.modality_bounds import StratifiedIWAE, SubsampledELBO
from pvae.objectives.bounds.reparameterised import DReG, StickingTheLanding
from pvae.objectives.bounds.score_function import BASELINES, VIMCO, ScoreFunction
from pvae.objectives.bounds.thermodynamic import Thermodynamic, log_uniform
from pvae.objectives.bounds.variance import LogVariance, VarianceRegularised
from pvae.objectives.dirac import Dirac
from pvae.objectives.gradients.strategies import STRATEGIES, admissible
from pvae.objectives.kl.aggregate_posterior import InfoMMD, TotalCorrelation
from pvae.objectives.kl.constrained import Constrained
from pvae.objectives.kl.free_bits import FreeBits
from pvae.objectives.kl.joint_capacity import JointCapacity
from pvae.objectives.kl.mean_discrepancy import mmd
from pvae.objectives.kl.schedules import Schedule
from pvae.objectives.kl.wasserstein import WAE
from pvae.objectives.kl.weighted_kl import Beta, Capacity
from pvae.objectives.phases.alternate import Alternate
from pvae.objectives.phases.alternating import PlayersObjective
from pvae.objectives.phases.player_groups import player_parameters
from pvae.objectives.phases.wake_sleep import WakeSleep
from pvae.objectives.pyro.adapt_losses import adapt
from pvae.objectives.pyro.em import EM
from pvae.objectives.pyro.graph_elbo import GraphELBO
from pvae.objectives.pyro.pyro_losses import PyroObjective
from pvae.objectives.quantised import VectorQuantised
from pvae.objectives.registry import (
    NamedObjective,
    describe,
    loss_is_bound,
    make_objective,
    no_density_by,
    objective_names,
    untrained_by,
)
from pvae.objectives.regularised import RAE
from pvae.objectives.semisupervised_elbo import SemiSupervised
from pvae.objectives.weights_objective import WeightsObjective, WeightsOptions
from pvae.weights.auxiliary import Marginal

__all__ = [
    "AAE",
    "ALI",
    "BASELINES",
    "CIWAE",
    "EM",
    "GAN",
    "IWAE",
    "LOSSES",
    "MIWAE",
    "PIWAE",
    "RAE",
    "STRATEGIES",
    "VAEGAN",
    "VIMCO",
    "WAE",
    "Adversarial",
    "Alternate",
    "Beta",
    "Capacity",
    "Constrained",
    "CriticLoss",
    "DReG",
    "Dirac",
    "FactorVAE",
    "FreeBits",
    "GraphELBO",
    "InfoMMD",
    "JointCapacity",
    "LogVariance",
    "Marginal",
    "NamedObjective",
    "Objective",
    "ObjectiveModule",
    "PlayersObjective",
    "PyroObjective",
    "Renyi",
    "Schedule",
    "ScoreFunction",
    "SemiSupervised",
    "Sides",
    "StickingTheLanding",
    "StratifiedIWAE",
    "SubsampledELBO",
    "Terms",
    "Thermodynamic",
    "TotalCorrelation",
    "VarianceRegularised",
    "VectorQuantised",
    "WakeSleep",
    "WeightsObjective",
    "WeightsOptions",
    "adapt",
    "admissible",
    "describe",
    "log_uniform",
    "loss_is_bound",
    "make_objective",
    "mmd",
    "no_density_by",
    "objective_names",
    "player_parameters",
    "untrained_by",
]


def __getattr__(name: str) -> Any:
    # Old names: these three were here before the linter had its own folder, on a higher floor.
    if name in {"Finding", "Findings", "check"}:
        return getattr(import_module("pvae.linter"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
