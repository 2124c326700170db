"""Pictures of given latent values, against the decoder itself."""

from __future__ import annotations

import exact
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.errors import InputError
from pvae.models.mixture import GMM
from pvae.models.rendering import interpolate, plane, traverse, value_by_value
from pvae.models.vae import VAE
from pvae.programs.base import LatentModel, pair


class Labelled(LatentModel):
    """Component y, z around the component's mean, and x = z times two, of which every mean is known."""

    def __init__(self, field: bool = False) -> None:
        super().__init__()
        self.field = field
        self.weight = torch.nn.Parameter(torch.tensor([1.0, 10.0, 100.0]))

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            label = y if self.field else pyro.sample("k", dist.Categorical(torch.tensor([0.2, 0.5, 0.3])))
            z = pyro.sample("z", dist.Normal(self.weight[label].unsqueeze(-1).expand(-1, 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(2 * z, 0.1).to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            if not self.field:
                pyro.sample("k", dist.Categorical(torch.ones(len(x), 3) / 3))
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))


pytestmark = pytest.mark.usefixtures("seeded")


def test_traversal_agrees_with_the_decoder_at_each_unit_and_step() -> None:
    vae, values = VAE((2, 3), latent=4, hidden=5), torch.linspace(-2, 2, 3)
    found = traverse(vae, Batch(x=torch.zeros(7, 6)), values)
    assert found.shape == (4, 3, 6)
    for unit in range(4):
        for step in range(3):
            z = torch.zeros(1, 4)
            z[0, unit] = values[step]
            torch.testing.assert_close(found[unit, step], vae.decode(z).mean[0].detach())


def test_traversal_moves_the_top_and_lower_layers_follow_at_their_mean() -> None:
    model, batch = exact.TwoLayerModel(), Batch(x=torch.ones(2, 3, dtype=torch.float64))
    values = torch.tensor([-1.0, 2.0], dtype=torch.float64)

    def moved(centre: Tensor) -> Tensor:
        z = centre.detach().repeat(2, 2, 1)
        z[0, :, 0], z[1, :, 1] = values, values
        return z

    above, below = moved(torch.zeros(2).double()), moved(model.a)
    expected = (above @ model.A.T + model.a) @ model.B.T + model.b
    torch.testing.assert_close(traverse(model, batch, values), expected)
    torch.testing.assert_close(traverse(model, batch, values, site="z1"), below @ model.B.T + model.b)


def test_traversal_names_the_sites_it_knows() -> None:
    with pytest.raises(InputError, match=r"Unknown site of real values 'w'.*z1, z2"):
        traverse(exact.TwoLayerModel(), Batch(x=torch.zeros(1, 3).double()), torch.zeros(2), site="w")
    with pytest.raises(InputError, match="no latent site of real values for each datum; it has z"):
        traverse(GMM((2,), components=3), Batch(x=torch.zeros(1, 2)), torch.zeros(2))


def test_interpolations_are_the_decoder_on_the_line_between_two_codes() -> None:
    vae, x = VAE((6,), latent=4, hidden=5), torch.rand(6, 6).round()
    found = interpolate(vae, Batch(x=x[:3]), Batch(x=x[3:]), steps=5)
    here, there = (vae.encode(part).mean for part in (x[:3], x[3:]))
    for step, share in enumerate([0.0, 0.25, 0.5, 0.75, 1.0]):
        torch.testing.assert_close(found[:, step], vae.decode((1 - share) * here + share * there).mean.detach())
    with pytest.raises(InputError, match="as many ends as starts"):
        interpolate(vae, Batch(x=x[:3]), Batch(x=x[3:5]))


def test_interpolations_keep_the_discrete_values_of_the_start() -> None:
    """The values of a Bernoulli site are floating-point numbers, and there is nothing between 0 and 1."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(0.5))
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(10 * b + z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(0.9 * (x > 5) + 0.05))
            pyro.sample("z", dist.Normal(x - 10 * b, 1.0))

    start, end = Batch(x=torch.tensor([10.0, 1.0])), Batch(x=torch.tensor([2.0, 12.0]))
    expected = torch.tensor([[10.0, 11.0, 12.0], [1.0, 1.5, 2.0]])
    torch.testing.assert_close(interpolate(pair(model, guide), start, end, steps=3), expected)


@pytest.mark.parametrize("prior", ["standard", dist.Normal(torch.tensor([3.0, -1.0]), torch.tensor([2.0, 0.5]))])
def test_the_plane_lies_at_quantiles_of_the_prior(prior: object) -> None:
    class Fixed(torch.nn.Module):
        def forward(self, context: None) -> object:
            return prior.to_event(1)  # type: ignore[union-attr]

    vae = VAE((6,), latent=2, hidden=5, prior=prior if isinstance(prior, str) else Fixed())
    pictures, values = plane(vae, Batch(x=torch.zeros(3, 6)), size=4)
    base = dist.Normal(torch.zeros(2), torch.ones(2)) if isinstance(prior, str) else prior
    expected = base.icdf(torch.tensor([0.125, 0.375, 0.625, 0.875]).unsqueeze(1)).T  # type: ignore[union-attr]
    torch.testing.assert_close(values, expected)
    top_right = torch.stack([expected[0, -1], expected[1, -1]])
    torch.testing.assert_close(pictures[0, -1], vae.decode(top_right).mean.detach())
    bottom_left = torch.stack([expected[0, 0], expected[1, 0]])
    torch.testing.assert_close(pictures[-1, 0], vae.decode(bottom_left).mean.detach())


def test_the_plane_of_a_prior_without_quantiles_lies_at_those_of_draws() -> None:
    class Two(torch.nn.Module):
        def forward(self, context: None) -> object:
            means = torch.tensor([[-50.0, 0.0], [50.0, 0.0]])
            return dist.MixtureSameFamily(
                dist.Categorical(torch.ones(2)), dist.Normal(means, torch.ones(2, 2)).to_event(1)
            )

    _, values = plane(VAE((6,), latent=2, hidden=5, prior=Two()), Batch(x=torch.zeros(1, 6)), size=2)
    # a quarter of all is half of the lower component
    torch.testing.assert_close(values, torch.tensor([[-50.0, 50.0], [-0.6745, 0.6745]]), atol=0.15, rtol=0)


def test_a_plane_needs_two_units() -> None:
    with pytest.raises(InputError, match=r"two units; z has 3\. Train with latent=2"):
        plane(VAE((6,), latent=3, hidden=5), Batch(x=torch.zeros(1, 6)))


def test_components_are_shown_at_their_means_with_their_shares() -> None:
    found = value_by_value(Labelled(), Batch(x=torch.zeros(5, 2)))
    torch.testing.assert_close(found.pictures, torch.tensor([2.0, 20.0, 200.0])[:, None, None].expand(3, 1, 2))
    torch.testing.assert_close(found.shares, torch.tensor([0.2, 0.5, 0.3]))
    assert found.name == "k"


def test_rows_share_their_noise() -> None:
    found = value_by_value(Labelled(), Batch(x=torch.zeros(5, 2)), columns=4).pictures
    noise = found - torch.tensor([2.0, 20.0, 200.0])[:, None, None]
    assert noise[0].std() > 0.5
    torch.testing.assert_close(noise, noise[:1].expand_as(noise), atol=1e-4, rtol=0)


def test_a_label_that_conditions_the_model_is_shown_value_by_value() -> None:
    batch = Batch(x=torch.zeros(5, 2), y=torch.tensor([0, 2, 1, 1, 0]))
    found = value_by_value(Labelled(field=True), batch)
    torch.testing.assert_close(found.pictures[:, 0, 0], torch.tensor([2.0, 20.0, 200.0]))
    assert found.shares is None and found.name == "y"


def test_a_gaussian_mixture_shows_its_means() -> None:
    mixture = GMM((2,), components=3)
    found = value_by_value(mixture, Batch(x=torch.zeros(1, 2)))
    torch.testing.assert_close(found.pictures[:, 0], mixture.means.detach())


def test_without_labels_there_is_nothing_to_show_value_by_value() -> None:
    with pytest.raises(InputError, match="no discrete latent site with one value per datum \\(it has z\\)"):
        value_by_value(VAE((6,), latent=2, hidden=5), Batch(x=torch.zeros(1, 6), y=torch.zeros(1).long()))
