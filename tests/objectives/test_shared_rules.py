"""Rules that several objectives share: the MMD of a joint sample, outcomes, guides of points, changes to PyTorch."""

from __future__ import annotations

import pytest
import torch

import pvae
from pvae.models import Autoencoder
from pvae.objectives import make_objective
from pvae.objectives.joint_outcomes import outcome_tuples
from pvae.objectives.kl.mean_discrepancy import kernel_values, mmd, mmd_of_labels
from pvae.objectives.pyro.patches import collect_surrogates, without_synchronisation

pytestmark = pytest.mark.usefixtures("own_store")


def test_the_mmd_of_labels_is_the_mmd_of_the_two_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(6, 3, dtype=torch.float64, generator=generator)
    theirs = torch.rand(6, 3, dtype=torch.float64, generator=generator)
    joint = torch.cat([ours, theirs])
    kernel = kernel_values(torch.cdist(joint, joint).square(), 3, "gaussian", 0.5).fill_diagonal_(0.0)
    labels = (torch.arange(12) < 6).double()[:, None]
    torch.testing.assert_close(mmd_of_labels(kernel, labels)[0], mmd(ours, theirs, scale=0.5), rtol=1e-10, atol=1e-12)


def test_outcome_tuples_are_all_tuples_with_the_last_index_fastest() -> None:
    assert outcome_tuples(2, 2).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert outcome_tuples(3, 4).unique(dim=0).shape == (81, 4)


def test_patches_end_with_their_block_also_after_an_error() -> None:
    before = torch.Tensor.backward, torch.Tensor.item, torch._C._get_tracing_state, pvae.objectives.base.torch_item
    for patch in (collect_surrogates, without_synchronisation):
        with pytest.raises(RuntimeError, match="inside"), patch():
            raise RuntimeError("inside")
    after = torch.Tensor.backward, torch.Tensor.item, torch._C._get_tracing_state, pvae.objectives.base.torch_item
    assert before == after
    leaf = torch.ones((), requires_grad=True)
    with collect_surrogates() as surrogates:
        (2 * leaf).backward()
    assert len(surrogates) == 1 and leaf.grad is None


@pytest.mark.parametrize("name", ["iwae", "beta", "capacity", "free-bits", "stl", "joint-capacity"])
def test_an_objective_with_a_kl_refuses_a_guide_of_points(name: str) -> None:
    model, objective = Autoencoder(4, prior="standard", latent=2, hidden=4), make_objective(name)()
    with pytest.raises(pvae.InputError, match=r"needs a density of .*site 'z' is a Delta"):
        objective.loss(model.model, model.guide, torch.eye(4))


@pytest.mark.parametrize("name", ["aae:hidden=4", "wae"])
def test_an_objective_without_a_kl_records_no_elbo_of_points(name: str) -> None:
    model, objective = Autoencoder(4, prior="standard", latent=2, hidden=4), make_objective(name)()
    named = objective.terms(model.model, model.guide, (torch.eye(4),), {}, objective.players[0]).named
    assert named.keys() - {"mmd"} == {"log_likelihood"}
