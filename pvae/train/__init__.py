"""Training: one step, the loop around it, and the folder it leaves."""

from pvae.train.devices import isolated
from pvae.train.run import Run, open_run
from pvae.train.trainer import fit

__all__ = ["Run", "fit", "isolated", "open_run"]
