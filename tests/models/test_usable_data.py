"""An empty batch and values that are not finite are refused in one line, wherever data are given to a model."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from untrained_runs import untrained_run

import pvae
from pvae.errors import InputError
from pvae.models import encode, impute, reconstruct
from pvae.models.posterior_values import plausible_codes
from pvae.objectives import adapt, make_objective
from pvae.programs.usable_data import require_usable

STYLE: dict[str, Any] = {"latent": 2, "hidden": 4, "likelihood": "gaussian"}


def vae() -> pvae.VAE:
    return pvae.VAE(4, **STYLE)


def masked() -> pvae.MaskedVAE:
    return pvae.MaskedVAE(4, **STYLE)


def gmvae() -> pvae.GMVAE:
    return pvae.GMVAE(4, components=2, inference="amortised", **STYLE)


def sequence() -> pvae.SequenceVAE:
    return pvae.SequenceVAE((2, 2), **STYLE)


def multimodal() -> pvae.MultimodalVAE:
    return pvae.MultimodalVAE(4, {"x": "gaussian"}, latent=2, hidden=4)


def steps(x: Tensor) -> Tensor:
    return x.reshape(-1, 2, 2)


@cache
def a_run() -> pvae.Run:
    return untrained_run(vae(), pvae.Batch(x=torch.eye(4)))


@cache
def a_labelled_run() -> pvae.Run:
    return untrained_run(
        pvae.SemiSupervisedVAE(4, classes=2, **STYLE), pvae.Batch(x=torch.eye(4), y=torch.arange(4) % 2)
    )


def batch(x: Tensor) -> pvae.Batch:
    return pvae.Batch(x=x)


CALLS: dict[str, Callable[[Tensor], Any]] = {
    "VAE.encode": lambda x: vae().encode(x),
    "VAE.reconstruct": lambda x: vae().reconstruct(x),
    "MaskedVAE.encode": lambda x: masked().encode(x),
    "GMVAE.assign": lambda x: gmvae().assign(x),
    "GMVAE.cluster": lambda x: gmvae().cluster(x),
    "SemiSupervisedVAE.classify": lambda x: pvae.SemiSupervisedVAE(4, classes=2, **STYLE).classify(x),
    "JointVAE.assign": lambda x: pvae.JointVAE(4, categories=(2,), **STYLE).assign(x),
    "LadderVAE.codes": lambda x: pvae.LadderVAE(4, latent=(2, 2), hidden=(4, 4), likelihood="gaussian").codes(x),
    "SequenceVAE.codes": lambda x: sequence().codes(steps(x)),
    "SequenceVAE.forecast": lambda x: sequence().forecast(steps(x), n=2, particles=2),
    "SequenceVAE.continued": lambda x: sequence().continued(steps(x), torch.ones(len(x)), n=2, particles=2),
    "VQVAE.codes": lambda x: pvae.VQVAE(4, **STYLE).codes(x),
    "MultimodalVAE.encode": lambda x: multimodal().encode(x=x),
    "AIR.find": lambda x: pvae.AIR((2, 2), size=1).find(steps(x)),
    "ProdLDA.encode": lambda x: pvae.ProdLDA(4, topics=2).encode(x),
    "ConditionalVAE.encode": lambda x: pvae.ConditionalVAE(4, condition="y", classes=2, **STYLE).encode(
        x, torch.zeros(len(x)).long()
    ),
    "ConditionalVAE.impute": lambda x: pvae.ConditionalVAE((2, 2), condition="quadrants", observed=3, **STYLE).impute(
        steps(x)
    ),
    "encode": lambda x: encode(vae(), batch(x)),
    "plausible_codes": lambda x: plausible_codes(vae(), batch(x)),
    "reconstruct": lambda x: reconstruct(vae(), batch(x)),
    "impute": lambda x: impute(masked(), {"x": x, "mask": torch.ones_like(x)}, n=1, particles=2),
    "log_weights": lambda x: pvae.log_weights(vae(), batch(x), 2),
    "evaluate.elbo": lambda x: pvae.evaluate.elbo(vae(), batch(x)),
    "check": lambda x: pvae.check(vae(), batch(x)).require(),
    "fit": lambda x: pvae.fit(vae(), batch(x), epochs=1, progress=False),
    "Run.encode": lambda x: a_run().encode(batch(x)),
    "Run.predict": lambda x: a_labelled_run().predict(batch(x)),
    "Run.reconstruct": lambda x: a_run().reconstruct(batch(x)),
}


@pytest.mark.parametrize("call", list(CALLS))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.usefixtures("own_store")
def test_a_value_that_is_not_finite_is_refused_with_its_place(call: str, value: float) -> None:
    a_run(), a_labelled_run()  # outside of the check for errors
    x = torch.ones(4, 4)
    x[3, 1] = value
    with pytest.raises(InputError, match=r"needs finite values|got (nan|inf) for word 1 of datum 3") as caught:
        CALLS[call](x)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("call", list(CALLS))
@pytest.mark.usefixtures("own_store")
def test_an_empty_batch_is_refused(call: str) -> None:
    a_run(), a_labelled_run()
    with pytest.raises(InputError, match=r"is empty|are empty|no data|no test split") as caught:
        CALLS[call](torch.ones(0, 4))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["elbo", "iwae", "rws", "gan", "tvo", "beta", "alternate", "elbo-enum"])
@pytest.mark.usefixtures("own_store")
def test_an_objective_refuses_an_empty_batch(name: str) -> None:
    objective, model = adapt(make_objective(name)), vae()
    with pytest.raises(InputError, match="The batch is empty"):
        objective.loss(model.model, model.guide, torch.ones(0, 4))


@pytest.mark.usefixtures("own_store")
def test_values_that_do_not_count_need_not_be_finite() -> None:
    x = torch.ones(2, 4)
    x[0, 1] = x[1, 3] = torch.nan
    mask = (~x.isnan()).float()
    torch.manual_seed(0)
    model = masked()
    results = []
    for filled in (x, torch.where(mask > 0, x, 0.0)):
        torch.manual_seed(0)
        results.append(pvae.log_weights(model, {"x": filled, "mask": mask}, 2).log_w)
    assert torch.equal(*results)
    late = torch.ones(2, 2, 2)
    late[0, 1] = torch.nan
    codes = sequence().codes(late, torch.tensor([1, 2]))
    assert codes.isfinite().all()
    with pytest.raises(InputError, match="1 of 8 are not"):  # an observed value
        pvae.log_weights(model, {"x": x, "mask": mask.index_fill(0, torch.tensor([0]), 1)}, 2)


def test_a_step_of_a_training_does_not_read_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr("pvae.models.direct_calls.require_usable", lambda fields: read.extend(fields))
    model = pvae.SemiSupervisedVAE(4, classes=2, **STYLE)
    data = pvae.Batch(x=torch.eye(4), y=torch.tensor([0, 1, -1, -1]))
    pvae.fit(model, data, epochs=1, step="eager", progress=False)
    assert read == []
    model.classify(data.x)
    assert read == ["x"]


def test_exact_components_have_no_guide_to_assign() -> None:
    with pytest.raises(
        InputError, match=r"assign needs inference='amortised'; got inference='exact'.*Use cluster\(x\)"
    ):
        pvae.GMVAE(4, **STYLE).assign(torch.eye(4))


@pytest.mark.parametrize("shape", [(2, 3, 3), (2,), (2, 3), (2, 1, 3), (2, 3, 1)])
def test_a_mask_may_have_one_number_for_several_values(shape: tuple[int, ...]) -> None:
    value, mask = torch.ones(2, 3, 3), torch.ones(shape)
    mask[1] = 0
    value[1] = torch.nan
    require_usable({"x": value, "mask": mask})
    value[0, 2, 0] = torch.nan
    with pytest.raises(InputError, match=r"1 of 18 are not .* the first at \[0, 2, 0\]"):
        require_usable({"x": value, "mask": mask})


def test_a_mask_of_another_shape_hides_no_value() -> None:
    x = torch.ones(2, 3, 3)
    x[1, 0, 0] = torch.nan
    with pytest.raises(InputError, match=r"1 of 18 are not .* the first at \[1, 0, 0\]"):
        require_usable({"x": x, "mask": torch.zeros(2, 5)})
