"""Latent-variable models: what one is, how its programs get their fields, and whose parameters are whose."""

from pvae.models.base import LatentModel, Program, pair, program
from pvae.models.groups import Groups, find_groups, named_parameters
from pvae.models.programs import Programs, bind
from pvae.models.registration import restore_store, scope, store_tensors

__all__ = [
    "Groups",
    "LatentModel",
    "Program",
    "Programs",
    "bind",
    "find_groups",
    "named_parameters",
    "pair",
    "program",
    "restore_store",
    "scope",
    "store_tensors",
]
