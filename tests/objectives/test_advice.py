"""Advice is no dead end: an objective that an error names runs on the model of the error.

Every named objective is tried on models that some objectives refuse: latents that all data share, no plate, sites that
cannot be reparameterised, marked and auxiliary sites, points, and densities that do not factorise.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pvae
from pvae.errors import InputError
from pvae.objectives import make_objective, objective_names
from pvae.objectives.named import OBJECTIVES

pytestmark = pytest.mark.usefixtures("own_store", "seeded")

#: Settings without which an objective cannot run.
SETTINGS = {"geco": "geco:target=-2", "total-correlation": "total-correlation:data_size=6"}

#: Further settings that objectives need other things with.
MORE = ("iwae:particles=1", "reinforce:baseline=optimal", "alternate:phi=exact", "rws:phi=sleep", "beta:particles=3")


class Pair(pvae.LatentModel):
    """Two programs of x and of the parameters theta and phi.

    Args:
        model: a function of x and theta.
        guide: a function of x and phi.
    """

    def __init__(self, model: Callable[..., Any], guide: Callable[..., Any]) -> None:
        super().__init__()
        self.programs = model, guide
        self.of_model, self.of_guide = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(-0.2))

    def theta(self) -> list[nn.Parameter]:
        return [self.of_model]

    def phi(self) -> list[nn.Parameter]:
        return [self.of_guide]

    def model(self, x: Tensor) -> None:
        self.programs[0](x, self.of_model)

    def guide(self, x: Tensor) -> None:
        self.programs[1](x, self.of_guide)


def in_plate(body: Callable[[Tensor, Tensor], Any]) -> Callable[[Tensor, Tensor], None]:
    """The program inside a plate over data."""

    def program(x: Tensor, parameter: Tensor) -> None:
        with pyro.plate("data", len(x)):
            body(x, parameter)

    return program


def observe(x: Tensor, mean: Tensor) -> None:
    pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


def shared(density: Callable[..., Any]) -> Callable[[Tensor, Tensor], None]:
    """A model with one w for all data."""

    def program(x: Tensor, parameter: Tensor) -> None:
        w = pyro.sample("w", density())
        with pyro.plate("data", len(x)):
            observe(x, parameter * w)

    return program


def latent(density: Callable[..., Any], **infer: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """A draw of z."""
    return lambda x, parameter: pyro.sample("z", density(x, parameter), infer=infer)


def standard(x: Tensor, _: Tensor) -> dist.Normal:
    return dist.Normal(torch.zeros(len(x)), 1.0)


def normal(x: Tensor, parameter: Tensor) -> dist.Normal:
    return dist.Normal(parameter * x, 1.0)


def coin(x: Tensor, parameter: Tensor) -> dist.Bernoulli:
    return dist.Bernoulli(logits=parameter * x)


def with_mean(prior: Callable[..., Any]) -> Callable[[Tensor, Tensor], None]:
    return in_plate(lambda x, theta: observe(x, theta * latent(prior)(x, theta)))


def mixed_guide(x: Tensor, phi: Tensor) -> None:
    k = pyro.sample("k", coin(x, phi), infer={"is_auxiliary": True, "enumerate": "parallel"})
    pyro.sample("z", dist.Normal(phi * x + k, 1.0))


def correlated(x: Tensor, phi: Tensor) -> dist.MultivariateNormal:
    return dist.MultivariateNormal(phi * x.unsqueeze(-1).expand(-1, 2), torch.eye(2) + 0.5)


def fair(x: Tensor, _: Tensor) -> dist.Bernoulli:
    return dist.Bernoulli(torch.full((len(x),), 0.5))


def two_sites(x: Tensor, theta: Tensor) -> None:
    z = pyro.sample("z", standard(x, theta))
    observe(x, theta * pyro.sample("y", dist.Normal(z, 1.0)))


def guide_of_two(x: Tensor, phi: Tensor) -> None:
    z = pyro.sample("z", normal(x, phi))
    pyro.sample("y", dist.Normal(z + phi, 1.0))


def without_plate(x: Tensor, theta: Tensor) -> None:
    z = pyro.sample("z", standard(x, theta).to_event(1))
    pyro.sample("x", dist.Normal(theta * z, 1.0).to_event(1), obs=x)


MODELS: dict[str, Callable[[], Pair]] = {
    "shared-normal": lambda: Pair(
        shared(lambda: dist.Normal(0.0, 1.0)), lambda x, phi: pyro.sample("w", dist.Normal(phi, 1.0))
    ),
    "shared-coin": lambda: Pair(
        shared(lambda: dist.Bernoulli(0.5)), lambda x, phi: pyro.sample("w", dist.Bernoulli(logits=phi))
    ),
    "no-plate": lambda: Pair(without_plate, lambda x, phi: pyro.sample("z", normal(x, phi).to_event(1))),
    "coin": lambda: Pair(with_mean(fair), in_plate(latent(coin))),
    "marked": lambda: Pair(with_mean(fair), in_plate(latent(coin, enumerate="parallel"))),
    "point": lambda: Pair(with_mean(standard), in_plate(latent(lambda x, phi: dist.Delta(phi * x)))),
    "two-sites": lambda: Pair(in_plate(two_sites), in_plate(guide_of_two)),
    "normal": lambda: Pair(with_mean(standard), in_plate(latent(normal))),
    "auxiliary": lambda: Pair(with_mean(standard), in_plate(mixed_guide)),
    "correlated": lambda: Pair(
        in_plate(
            lambda x, theta: observe(x, theta * pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1)).sum(-1))
        ),
        in_plate(latent(correlated)),
    ),
}


@functools.cache
def refusal(model: str, text: str) -> str:
    """Why an objective does not run on a model; "" if it does."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    made, x = MODELS[model](), torch.linspace(-1, 1, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            objective = make_objective(text)()
            fatal = pvae.check(made, {"x": x}, objective).fatal
            if not fatal:
                objective.loss_and_grads(made.model, made.guide, x)
            return str(fatal) if fatal else ""
        except InputError as error:
            return str(error)


def advised(message: str) -> list[str]:
    """The objectives that a message names: by a quoted name with settings, or as a class of pvae."""
    classes = {made.__name__: name for name, (made, _) in OBJECTIVES.items() if isinstance(made, type)}
    quoted = re.findall(r"'([a-z][a-z-]*(?::[a-z_]+=[\w.-]+)*)'", message)
    named = [name for name in quoted if name.split(":")[0] in OBJECTIVES]
    return named + [classes[name] for name in re.findall(r"pvae\.([A-Z]\w+)", message) if name in classes]


@pytest.mark.parametrize("model", MODELS)
def test_every_objective_that_an_error_names_runs_on_the_same_model(model: str) -> None:
    texts = [SETTINGS.get(name, name) for name, _ in objective_names()] + list(MORE)
    dead_ends = []
    for text in texts:
        message = refusal(model, text)
        for name in advised(message):
            reason = refusal(model, SETTINGS.get(name, name))
            if reason:
                dead_ends.append(f"{text} names {name!r}: {message}\n    but {name}: {reason}")
    assert not dead_ends, "\n".join(dead_ends)


def test_the_models_are_refused_with_advice() -> None:
    """The test above compares something: most models are refused by some objective that names another one."""
    refused = {
        model
        for model in MODELS
        if any(advised(refusal(model, text)) for text in ("dreg", "iwae", "vq", "geco:target=1"))
    }
    assert refused >= {"shared-normal", "shared-coin", "no-plate", "coin", "point", "auxiliary"}
    assert advised("Use 'elbo' or pvae.IWAE, not 'site' or pvae.check") == ["elbo", "iwae"]
