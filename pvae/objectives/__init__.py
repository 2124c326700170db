"""Objectives: what inference algorithms optimise, each a Pyro loss."""

from pvae.objectives.alternate import Alternate
from pvae.objectives.base import Objective, ObjectiveModule, Terms, WeightsObjective, WeightsOptions, player_parameters
from pvae.objectives.findings import Finding, Findings
from pvae.objectives.linter import check
from pvae.objectives.named import NamedObjective, describe, make_objective, objective_names
from pvae.objectives.particles import IWAE, Renyi
from pvae.objectives.players import PlayersObjective
from pvae.objectives.pyro_losses import PyroObjective, adapt
from pvae.objectives.wakesleep import WakeSleep

__all__ = [
    "IWAE",
    "Alternate",
    "Finding",
    "Findings",
    "NamedObjective",
    "Objective",
    "ObjectiveModule",
    "PlayersObjective",
    "PyroObjective",
    "Renyi",
    "Terms",
    "WakeSleep",
    "WeightsObjective",
    "WeightsOptions",
    "adapt",
    "check",
    "describe",
    "make_objective",
    "objective_names",
    "player_parameters",
]
