"""Callbacks of a training: the class `Callback`, callbacks that send the numbers of a run to a tracker, and `EMA`.

`pvae.fit` takes a list of them, as ``callbacks=[pvae.callbacks.TensorBoard("logs")]``. A plain function of (record,
model) is a callback too.
"""

from pvae.callbacks.base import Callback
from pvae.callbacks.moving_average import EMA
from pvae.callbacks.trackers import MLflow, TensorBoard, WandB

__all__ = ["EMA", "Callback", "MLflow", "TensorBoard", "WandB"]
