"""Data: named sets, files and arrays become splits; splits become minibatches."""

from pvae.data.downloads import data_names, describe_data, fetch, verify
from pvae.data.epochs import minibatches, permutation, steps_of_epoch
from pvae.data.loading import load_data
from pvae.data.multi_digits import draw_multi_digits
from pvae.data.schema import Scaling, Schema
from pvae.data.splits import Splits
from pvae.data.support import check_support
from pvae.data.toy import LinearGaussian, fit_ppca

__all__ = [
    "LinearGaussian",
    "Scaling",
    "Schema",
    "Splits",
    "check_support",
    "data_names",
    "describe_data",
    "draw_multi_digits",
    "fetch",
    "fit_ppca",
    "load_data",
    "minibatches",
    "permutation",
    "steps_of_epoch",
    "verify",
]
