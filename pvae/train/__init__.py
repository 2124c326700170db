"""Training: `fit`, the training step and its loop, and the folder of a run."""

from pvae.train.devices import isolated
from pvae.train.run import Run, open_run
from pvae.train.trainer import fit

__all__ = ["Run", "fit", "isolated", "open_run"]
