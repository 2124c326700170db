"""The commands of the command line: one file for each command, and the files that they share."""

from pvae.commands.checking import check
from pvae.commands.comparing import compare
from pvae.commands.data import data
from pvae.commands.evaluating import evaluate
from pvae.commands.fitting_mixtures import em
from pvae.commands.fitting_priors import fit_prior
from pvae.commands.helping import help_
from pvae.commands.listing import list_
from pvae.commands.listing_runs import runs_
from pvae.commands.showing import show
from pvae.commands.studying_gradients import gradients
from pvae.commands.training import train
from pvae.commands.using_runs import encode, export, impute, predict, sample

__all__ = [
    "COMMANDS",
    "check",
    "compare",
    "data",
    "em",
    "encode",
    "evaluate",
    "export",
    "fit_prior",
    "gradients",
    "help_",
    "impute",
    "list_",
    "predict",
    "runs_",
    "sample",
    "show",
    "train",
]

COMMANDS = (
    train,
    evaluate,
    compare,
    em,
    fit_prior,
    show,
    encode,
    sample,
    impute,
    predict,
    export,
    check,
    gradients,
    runs_,
    data,
    list_,
    help_,
)
