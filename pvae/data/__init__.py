"""Data: named sets, files and arrays become splits; splits become minibatches."""

from pvae.data.epochs import minibatches, permutation
from pvae.data.files import data_names, describe_data, fetch, verify
from pvae.data.loading import load_data
from pvae.data.splits import Splits

__all__ = [
    "Splits",
    "data_names",
    "describe_data",
    "fetch",
    "load_data",
    "minibatches",
    "permutation",
    "verify",
]
