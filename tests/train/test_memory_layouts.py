"""A parameter that gets memory of another layout in the middle of a training is trained as before, or is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pvae
from pvae.callbacks import Callback
from pvae.errors import InputError

X = torch.rand(8, 32, generator=torch.Generator().manual_seed(0)).round()


class Small(pvae.LatentModel):
    """A VAE with one convolution of two channels."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(2, 2, 3), nn.Linear(8, 4)
        self.decoder = nn.Linear(2, 32)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        loc, log_scale = self.head(self.convolution(x.reshape(-1, 2, 4, 4)).tanh().flatten(1)).chunk(2, 1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def transposed(value: Tensor) -> Tensor:
    return value.mT.contiguous().mT if value.dim() > 1 else value.clone()


def channels_last(value: Tensor) -> Tensor:
    return value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value.clone()


def with_gaps(value: Tensor) -> Tensor:
    wide = value.new_zeros(*value.shape[:-1], 2 * value.shape[-1])
    wide[..., ::2] = value
    return wide[..., ::2]


class Relayout(Callback):
    """Gives parameters the same values in new memory: all after a step, or those of a layer when it is called."""

    def __init__(self, change: Callable[[Tensor], Tensor], model: Small, at: str) -> None:
        self.change, self.model, self.at = change, model, at

    def on_start(self, config: Mapping[str, Any], model: Any) -> None:
        runs = []

        def hook(layer: nn.Module, *_: Any) -> None:
            runs.append(layer)
            if len(runs) == 4:
                for parameter in layer.parameters():
                    parameter.data = self.change(parameter.data)

        if self.at == "hook":
            self.model.convolution.register_forward_hook(hook)

    def on_step(self, step: int, parameters: Mapping[str, Tensor]) -> None:
        if step == 4 and self.at == "callback":
            for parameter in parameters.values():
                parameter.data = self.change(parameter.data)


def trained(change: Callable[[Tensor], Tensor], at: str, **options: Any) -> list[Tensor]:
    """Return the parameters after a training in which a callback, or a hook of a layer, gives new memory."""
    torch.manual_seed(0)
    model = Small().double()
    callbacks = [Relayout(change, model, at)]
    fixed: Any = {"epochs": 4, "batch_size": 4, "learning_rate": 0.01, "precision": "float64", "progress": False}
    run = pvae.fit(model, pvae.Batch(x=X), callbacks=callbacks, **fixed, **options)
    return [parameter.detach() for parameter in run.model.parameters()]


@pytest.mark.parametrize("change", [transposed, channels_last])
@pytest.mark.parametrize(
    ("at", "step", "optimiser"),
    [("callback", "eager", "adam"), ("callback", "graph", "sgd:momentum=0.9"), ("hook", "eager", "adam")],
)
def test_another_layout_changes_no_update(
    change: Callable[[Tensor], Tensor], at: str, step: str, optimiser: str
) -> None:
    expected = trained(Tensor.clone, at, step=step, optimiser=optimiser)
    found = trained(change, at, step=step, optimiser=optimiser)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_a_parameter_with_gaps_is_refused_by_fused_kernels_and_trained_by_others() -> None:
    with pytest.raises(InputError, match=r"of Adam needs parameters without gaps .*\.contiguous\(\)"):
        trained(with_gaps, "callback", step="eager", optimiser="adam")
    expected = trained(Tensor.clone, "callback", step="eager", optimiser="adam:fused=false")
    found = trained(with_gaps, "callback", step="eager", optimiser="adam:fused=false")
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
