"""Parameters that a callback freezes and trains again keep their state of the optimiser in each checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models import Plain

import pvae
from pvae.errors import DivergenceError
from pvae.train.devices import isolated


class FreezeInEpochs(pvae.callbacks.Callback):
    """Freezes the decoder in some epochs; a training that continues within them starts with a frozen decoder."""

    def __init__(self, *epochs: int, done: int = 0) -> None:
        self.epochs, self.done = epochs, done

    def on_start(self, config: Any, model: Any) -> None:
        self.on_epoch({"epoch": self.done}, model)

    def on_epoch(self, record: Any, model: Any) -> None:
        model.decoder.requires_grad_(record["epoch"] + 1 not in self.epochs)


class BreakAt(pvae.callbacks.Callback):
    """Makes a parameter of the encoder infinite after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, step: int, parameters: Any) -> None:
        if step == self.step:
            parameters["encoder.0.weight"].data.fill_(torch.inf)


def _fit(*callbacks: pvae.callbacks.Callback, **options: Any) -> pvae.Run:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(12, 6, generator=generator).round()
    with isolated(3):
        model = Plain()
    options = {"optimiser": "adam", "learning_rate": 0.1, "step": "eager"} | options
    return pvae.fit(model, x, batch_size=4, callbacks=list(callbacks), progress=False, **options)


@pytest.mark.parametrize("optimiser", ["adam", "sgd:momentum=0.9"])
def test_a_training_that_is_resumed_while_a_parameter_is_frozen_has_the_same_numbers(
    optimiser: str, tmp_path: Path
) -> None:
    whole = _fit(FreezeInEpochs(2, 3), epochs=4, optimiser=optimiser)
    for epochs in (2, 4):
        callback = FreezeInEpochs(2, 3, done=epochs - 2)
        run = _fit(callback, epochs=epochs, optimiser=optimiser, out=tmp_path / "run", resume=epochs == 4)
    assert [record["loss"] for record in run.history] == [record["loss"] for record in whole.history]
    assert all(map(torch.equal, run.model.state_dict().values(), whole.model.state_dict().values()))


def test_a_run_can_be_resumed_with_a_model_that_is_frozen_from_the_start(tmp_path: Path) -> None:
    _fit(epochs=1, out=tmp_path / "run")
    with isolated(3):
        model = Plain()
    model.decoder.requires_grad_(False)
    x = torch.rand(12, 6, generator=torch.Generator().manual_seed(1)).round()
    options: dict[str, Any] = {"optimiser": "adam", "learning_rate": 0.1, "step": "eager", "batch_size": 4}
    run = pvae.fit(model, x, epochs=2, out=tmp_path / "run", resume=True, progress=False, **options)
    saved = pvae.open_run(tmp_path / "run", Plain(), "last").model.decoder
    assert len(run.history) == 2 and all(map(torch.equal, saved.parameters(), model.decoder.parameters()))


def test_a_divergence_while_a_parameter_is_frozen_is_reported_as_such() -> None:
    with pytest.raises(DivergenceError, match=r"diverged at step 5: .* is not finite"):
        _fit(FreezeInEpochs(2, 3), BreakAt(5), epochs=3)
