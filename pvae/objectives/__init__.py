"""Objectives: what inference algorithms optimise, each a Pyro loss."""

from pvae.models.auxiliary import Marginal
from pvae.objectives.aae import AAE
from pvae.objectives.adversarial import Adversarial, Sides
from pvae.objectives.ali import ALI
from pvae.objectives.alternate import Alternate
from pvae.objectives.base import Objective, ObjectiveModule, Terms, WeightsObjective, WeightsOptions
from pvae.objectives.bounds import CIWAE, MIWAE, PIWAE
from pvae.objectives.constrained import Constrained
from pvae.objectives.critics import LOSSES, CriticLoss
from pvae.objectives.dirac import Dirac
from pvae.objectives.findings import Finding, Findings
from pvae.objectives.gan import GAN
from pvae.objectives.graph_baselines import GraphELBO
from pvae.objectives.groups import player_parameters
from pvae.objectives.linter import check
from pvae.objectives.named import NamedObjective, describe, make_objective, objective_names, untrained_by
from pvae.objectives.particles import IWAE, Renyi
from pvae.objectives.pathwise import DReG, StickingTheLanding
from pvae.objectives.penalties import InfoMMD, TotalCorrelation, mmd
from pvae.objectives.players import PlayersObjective
from pvae.objectives.pyro_losses import PyroObjective, adapt
from pvae.objectives.quantised import VectorQuantised
from pvae.objectives.schedules import Schedule
from pvae.objectives.score import BASELINES, VIMCO, ScoreFunction
from pvae.objectives.semisupervised import SemiSupervised
from pvae.objectives.shaped import Beta, Capacity, FreeBits
from pvae.objectives.strategies import STRATEGIES, admissible
from pvae.objectives.thermodynamic import Thermodynamic, log_uniform
from pvae.objectives.variance import LogVariance, VarianceRegularised
from pvae.objectives.wakesleep import WakeSleep

__all__ = [
    "AAE",
    "ALI",
    "BASELINES",
    "CIWAE",
    "GAN",
    "IWAE",
    "LOSSES",
    "MIWAE",
    "PIWAE",
    "STRATEGIES",
    "VIMCO",
    "Adversarial",
    "Alternate",
    "Beta",
    "Capacity",
    "Constrained",
    "CriticLoss",
    "DReG",
    "Dirac",
    "Finding",
    "Findings",
    "FreeBits",
    "GraphELBO",
    "InfoMMD",
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
    "check",
    "describe",
    "log_uniform",
    "make_objective",
    "mmd",
    "objective_names",
    "player_parameters",
    "untrained_by",
]
