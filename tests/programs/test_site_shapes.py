"""A likelihood that broadcasts against the data is refused with Pyro's whole reason and all shapes of the site."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pvae
from pvae.errors import InputError, whole_reason

pytestmark = pytest.mark.usefixtures("own_store", "seeded")

X = torch.randint(0, 2, (7, 1), generator=torch.Generator().manual_seed(0)).float()


class Slip(pvae.LatentModel):
    """Scores data of shape (batch, 1) by a distribution of shape (batch,)."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.encoder = nn.Linear(2, 1), nn.Linear(1, 4)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z).squeeze(-1)), obs=x)

    def guide(self, x: Tensor) -> None:
        mean, log_scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))


def fit(model: Any, objective: str) -> None:
    data = pvae.load_data({"x": X}, validation=0, test=0, binarise="none")
    pvae.fit(model, data, objective=objective, epochs=1, progress=False)


PARTS = (
    'at site "x", invalid log_prob shape. Expected [7], actual [7, 7].',
    ".to_event(...) the distribution being sampled",
    "plate 'data' of size 7",
    "its distribution has the batch shape [7] and the event shape [], and its value has the shape [7, 1]",
)


@pytest.mark.parametrize(
    "use",
    [
        lambda model: pvae.check(model, {"x": X}, "elbo").require(),
        lambda model: pvae.check(model, {"x": X}, "iwae").require(),
        lambda model: fit(model, "elbo"),
        lambda model: fit(model, "dreg"),
        lambda model: pvae.log_weights(model, {"x": X}, 7),
        lambda model: pvae.IWAE(7).loss(model.model, model.guide, X),
        lambda model: pvae.evaluate.elbo(model, pvae.Batch(x=X), particles=7),
        lambda model: pvae.evaluate.log_evidence(model, pvae.Batch(x=X), particles=7),
        lambda model: pvae.evaluate.judge(model, pvae.Batch(x=X), particles=7),
    ],
)
def test_site_shapes_and_remedies_are_named(use: Callable[[Any], Any]) -> None:
    model = Slip()
    for _ in range(2):  # a first error does not make the second run accept the programs
        with pytest.raises(InputError) as caught:
            use(model)
        assert all(part in str(caught.value) for part in PARTS)
        assert "\n" not in str(caught.value)


def test_a_first_batch_of_one_datum_does_not_hide_the_slip() -> None:
    model = Slip()
    assert pvae.log_weights(model, {"x": X[:1]}, 7).log_w.shape == (7, 1)
    with pytest.raises(InputError, match=r"actual \[7, 7\]"):
        pvae.log_weights(model, {"x": X}, 7)


def test_other_errors_keep_their_first_line() -> None:
    assert whole_reason(ValueError("sizes differ\nmore")) == "sizes differ"
    assert whole_reason(ValueError()) == "no message"


GREY = torch.tensor([[0.0, 1.0, 0.25], [1.0, 1.0, 0.0]])


@pytest.mark.parametrize(
    "use",
    [
        pvae.evaluate.log_evidence,
        pvae.evaluate.diagnose,
        lambda model, data: pvae.log_weights(model, data, 2),
    ],
)
def test_data_outside_the_support_are_named_in_one_line(use: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=r"^Bernoulli needs x in \{0, 1\}; got values from 0 to 1, 1 of 6 outside"):
        use(pvae.VAE((3,), latent=2, hidden=4), {"x": GREY})
