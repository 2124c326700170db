"""Programs in plain Pyro of docs/examples: SVI, check, fit, evaluation and comparison of each."""

from __future__ import annotations

import pyro
import pytest
from pyro_examples import EXAMPLES, Example, svi_losses

import pvae
from pvae.objectives import make_objective

pytestmark = pytest.mark.usefixtures("own_store", "seeded")

each_example = pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES.keys())


@each_example
def test_plain_svi_takes_the_same_steps_by_either_loss(example: Example) -> None:
    of_pyro = svi_losses(example, example.loss())
    assert svi_losses(example, make_objective(example.objective)()) == pytest.approx(of_pyro, rel=1e-5)
    assert of_pyro[0] != of_pyro[1]


def loss_of(example: Example, programs: pvae.LatentModel) -> float:
    """Return Pyro's loss of all data, on fixed draws."""
    pyro.set_rng_seed(5)
    with pvae.programs.scope(programs):
        return sum(example.loss().loss(programs.model, programs.guide, *example.data().values()) for _ in range(5))


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_passes_the_check_and_learns_by_fit(name: str) -> None:
    example = EXAMPLES[name]
    splits = example.splits()
    pyro.set_rng_seed(1)
    programs = example.make()
    findings = pvae.check(programs, splits.train, example.objective)
    assert not findings.fatal, str(findings)
    before = loss_of(example, programs)
    options = {"epochs": 10, "batch_size": splits.train.size, "learning_rate": 0.03, "progress": False}
    options["step"] = example.step
    pvae.fit(programs, splits, objective=example.objective, **options)
    assert loss_of(example, programs) < before
