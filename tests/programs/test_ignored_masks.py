"""Missing and padded values are never scored as data: a model that takes no mask of them is refused, on every path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from command_line import run
from torch import Tensor

import pvae
from pvae.errors import InputError
from pvae.models import encode
from pvae.programs.binding import bind
from pvae.train.batch_checks import BatchChecks

MASK = torch.ones(6, 2).index_fill(0, torch.tensor([4]), 0)


def vae() -> pvae.VAE:
    return pvae.VAE(2, latent=2, hidden=4, likelihood="gaussian")


def holes(first: int) -> pvae.data.Splits:
    """Return splits of which the first missing value is in row `first`."""
    x = np.random.default_rng(0).normal(size=(12, 2)).astype("float32")
    x[first, 1] = np.nan
    return pvae.load_data(x, missing="mask", validation=0, test=0)


PATHS: dict[str, Callable[[pvae.data.Splits], Any]] = {
    "fit": lambda data: pvae.fit(vae(), data, epochs=1, batch_size=4, progress=False),
    "elbo": lambda data: pvae.evaluate.elbo(vae(), data, split="train"),
    "log_weights": lambda data: pvae.log_weights(vae(), data.train, 2),
    "encode": lambda data: encode(vae(), data.train),
}


@pytest.mark.parametrize("path", list(PATHS))
def test_a_model_without_a_mask_is_refused_also_if_the_first_batch_is_complete(path: str) -> None:
    with pytest.raises(InputError, match="'mask' marks 1 of 24 values of x as missing, and no program takes it"):
        PATHS[path](holes(9))


def test_entries_that_are_hidden_at_each_use_need_a_model_with_a_mask() -> None:
    data = pvae.load_data(np.ones((6, 2)), mask="pixels", binarise="none", validation=0, test=0)
    with pytest.raises(InputError, match=r"hides entries of x at random, and the model takes no mask"):
        PATHS["fit"](data)


def test_a_mask_of_ones_changes_nothing() -> None:
    complete = holes(9).train.take(slice(0, 9))
    torch.manual_seed(0)
    model = vae()
    with_mask, without = (pvae.evaluate.elbo(model, data) for data in (complete, pvae.Batch(x=complete.x)))
    assert with_mask.value == without.value


def model(x: Tensor, w: Tensor | None = None) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        for name, value in (("x", x), ("w", w)):
            if value is not None:
                likelihood = dist.Normal(z.reshape(-1, *[1] * (value.dim() - 1)).expand(value.shape), 1.0)
                pyro.sample(name, likelihood.to_event(value.dim() - 1), obs=value)


def guide(x: Tensor, mask: Tensor | None = None) -> None:
    loc = pyro.param("loc", torch.tensor(0.0))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, 1.0))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"mask": MASK}, "'mask' marks 2 of 12 values of x as missing, and only the guide takes it"),
        ({"w": torch.ones(6, 2), "w_mask": MASK}, "'w_mask' marks 2 of 12 values of w as missing, and no program"),
        ({"mask": MASK[:, 0]}, "'mask' marks 2 of 12 values of x as missing"),
        ({"lengths": torch.tensor([2, 2, 2, 2, 1, 1])}, "'lengths' marks 2 of 12 time steps of x as padding"),
    ],
    ids=lambda value: next(iter(reversed(value))) if isinstance(value, dict) else "",
)
def test_the_check_names_the_field_and_counts_what_it_marks(fields: dict[str, Tensor], reason: str) -> None:
    findings = pvae.check(pvae.pair(model, guide), {"x": torch.ones(6, 2), **fields})
    assert [(finding.kind, finding.fatal) for finding in findings] == [("ignored mask", True)]
    assert reason in str(findings)


def test_a_mask_of_a_field_that_only_the_guide_reads_is_accepted() -> None:
    def model_of_w(w: Tensor) -> None:
        with pyro.plate("data", len(w)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("w", dist.Normal(z, 1.0), obs=w)

    def guide_of_x(x: Tensor, w: Tensor, mask: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor(0.0))
        with pyro.plate("data", len(w)):
            pyro.sample("z", dist.Normal(loc * (x * mask).sum(-1), 1.0))

    batch = {"x": torch.ones(6, 2), "mask": MASK, "w": torch.ones(6)}
    assert not pvae.check(pvae.pair(model_of_w, guide_of_x), batch)


@pytest.mark.usefixtures("own_store")
def test_each_batch_of_data_that_are_read_in_parts_is_checked() -> None:
    data, latent_model = holes(9).train, vae()
    checks = BatchChecks.of_programs(latent_model, bind(latent_model, data), data, is_drawn_at_use=False)
    first = data.take(slice(0, 8))
    assert checks(first) is first
    with pytest.raises(InputError, match="'mask' marks 1 of 8 values of x as missing, and no program takes it"):
        checks(data.take(slice(8, 12)))


def test_the_command_line_refuses_it_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "holes.csv").write_text("a,b\n1,\n,3\n2,\n4,\n")
    data, out = str(tmp_path / "holes.csv"), str(tmp_path / "run")
    done = run("train", "vae", "--data", data, "--missing", "mask", "--likelihood", "gaussian", "--out", out)
    assert done.code == 2
    assert "Give the model a parameter mask" in done.err.splitlines()[-1]
    assert not (tmp_path / "run").exists()
