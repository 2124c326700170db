"""Pairs of Pyro programs: their parameters, the batch fields that they take, and the plates of their sites."""

from pvae.programs.base import LatentModel, Program, pair, program
from pvae.programs.binding import Programs, bind
from pvae.programs.parameter_groups import Groups, find_groups, named_parameters
from pvae.programs.parameter_scope import restore_store, scope, store_tensors
from pvae.programs.queries import encode, has_bernoulli_likelihood, sample, scores_bits

__all__ = [
    "Groups",
    "LatentModel",
    "Program",
    "Programs",
    "bind",
    "encode",
    "find_groups",
    "has_bernoulli_likelihood",
    "named_parameters",
    "pair",
    "program",
    "restore_store",
    "sample",
    "scope",
    "scores_bits",
    "store_tensors",
]
