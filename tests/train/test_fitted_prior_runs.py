"""Runs with fitted priors: their folders, what is refused, and the command line."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import models
import pyro
import pyro.distributions as dist
import pytest
import tomli_w
import torch
from command_line import run as command
from stats import assert_close_in_sigmas
from torch import Tensor
from untrained_runs import SMALL, UNTRAINED, untrained_run

import pvae
from pvae.commands.fitting_priors import KIND_HELP
from pvae.errors import InputError
from pvae.models.fitted_prior import PRIOR_MAKERS
from pvae.train.distributed.training_group import TrainingGroup
from pvae.train.encoding import canonical, digest
from pvae.train.fitted_priors.kinds import PRIOR_KINDS
from pvae.train.run import read_config
from pvae.train.run_record import config_hash

pytestmark = pytest.mark.usefixtures("own_store")

X = torch.rand(60, 6, generator=torch.Generator().manual_seed(2)).round()
DATA = pvae.load_data(X, validation=10, test=10, binarise="none")
untrained = partial(untrained_run, data=DATA)


def evidence(run: pvae.Run) -> pvae.Estimate:
    return pvae.evaluate.log_evidence(run, DATA, particles=30)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of a built-in model and of a user's one, each with a fitted prior beside it."""
    place = tmp_path_factory.mktemp("runs")
    for name, made in {"vae": pvae.VAE(**SMALL), "plain": models.Plain()}.items():
        run = untrained(made, out=place / name)
        pvae.fit_prior(run, "mixture:components=2", DATA, out=place / f"{name}-prior")
    return place


@pytest.mark.parametrize("name", ["vae", "plain"])
def test_an_opened_run_has_the_prior_and_its_samples(folders: Path, name: str) -> None:
    before = pvae.open_run(folders / name, models.Plain() if name == "plain" else None)
    fitted = pvae.fit_prior(before, "mixture:components=2", DATA)
    opened = pvae.open_run(folders / f"{name}-prior", models.Plain() if name == "plain" else None)
    assert evidence(opened).value == evidence(fitted).value != evidence(before).value
    assert torch.equal(opened.sample(5), fitted.sample(5))
    assert torch.equal(opened.load("last").sample(5), fitted.sample(5))
    assert opened.config["prior"]["fitted"]["parameters"] == fitted.config["prior"]["fitted"]["parameters"]
    # a prior replaces a fitted one: the codes are the same
    again = pvae.fit_prior(opened, "mixture:components=2", DATA)
    assert evidence(again).value == evidence(fitted).value


def test_a_training_goes_on_in_a_new_folder_and_resumes_there(folders: Path, tmp_path: Path) -> None:
    opened = pvae.open_run(folders / "vae-prior")
    with pytest.raises(InputError, match="prior that was fitted after the training, and such a run cannot be resumed"):
        pvae.fit(opened.model, DATA, **{**UNTRAINED, "epochs": 1}, out=folders / "vae-prior", resume=True)
    more = {**UNTRAINED, "seed": 4, "batch_size": 20}
    pvae.fit(opened.model, DATA, **{**more, "epochs": 1}, out=tmp_path / "more")
    half = pvae.open_run(tmp_path / "more")
    assert "fitted" not in half.config["prior"]
    resumed = pvae.fit(half.model, DATA, **{**more, "epochs": 2}, out=tmp_path / "more", resume=True)
    whole = pvae.fit(pvae.open_run(folders / "vae-prior").model, DATA, **{**more, "epochs": 2})
    assert evidence(resumed).value == evidence(whole).value
    with pytest.raises(InputError, match="fitted prior"):
        pvae.fit(pvae.VAE(**SMALL), DATA, **{**more, "epochs": 3}, out=tmp_path / "more", resume=True)


def test_a_prior_of_another_model_is_refused(folders: Path, tmp_path: Path) -> None:
    other = untrained(pvae.VAE(**SMALL), seed=1)
    with torch.no_grad():
        other.model.decoder[0].bias.add_(1)
    pvae.fit_prior(other, "mixture:components=2", DATA, out=tmp_path / "other")
    mixed = tmp_path / "mixed"
    shutil.copytree(folders / "vae-prior", mixed)
    for name in ("best", "last"):
        shutil.rmtree(mixed / name)
        shutil.copytree(tmp_path / "other" / name, mixed / name)
    with pytest.raises(InputError, match=r"config\.toml is damaged, or was changed"):
        pvae.open_run(mixed)
    # the record of the other run with the digest of this one: the checkpoint says so too
    text = (tmp_path / "other" / "config.toml").read_text()
    places = tmp_path / "other", folders / "vae-prior"
    digests = [read_config(place)["prior"]["fitted"]["parameters"] for place in places]
    (mixed / "config.toml").write_text(text.replace(*digests))
    state = json.loads((mixed / "best" / "state.json").read_text())["state"]
    state["config"] = config_hash(read_config(mixed))
    (mixed / "best" / "state.json").write_text(json.dumps({"sha256": digest(canonical(state)), "state": state}))
    with pytest.raises(InputError, match="fitted to the codes of another model"):
        pvae.open_run(mixed)


def test_the_change_of_the_bound_is_that_of_an_evaluation_and_a_fall_is_reported() -> None:
    data = pvae.load_data(torch.cat([X] * 5), validation=100, test=0, binarise="none")
    torch.manual_seed(0)
    run = pvae.fit(pvae.VAE(**SMALL), data, **UNTRAINED)
    fitted = pvae.fit_prior(run, "full-gaussian", data)
    found = fitted.config["prior"]["fitted"]
    old, new = (pvae.evaluate.elbo(each, data, 500, split="validation") for each in (run, fitted))
    assert found["elbo_change_count"] == 100
    # the error over data holds for both; the error of 10 draws of z for each of 100 data is smaller than half of it
    assert_close_in_sigmas(found["elbo_change"], (new - old).value, found["elbo_change_error"] / 2, effect=10)
    assert found["elbo_change_error"] == pytest.approx((new - old).error, rel=0.5)
    with torch.no_grad():  # a narrow q: that of one datum does not cover the others
        run.model.posterior.log_scale.bias.fill_(-3)
    with pytest.warns(UserWarning, match="The fitted prior lowers the ELBO of 100 validation data by"):
        worse = pvae.fit_prior(run, "aggregate:components=1", data)
    assert worse.config["prior"]["fitted"]["elbo_change"] < 0
    # a guide that gives points has no ELBO
    points = pvae.fit_prior(untrained(pvae.Autoencoder(**SMALL)), "full-gaussian", DATA)
    assert "elbo_change" not in points.config["prior"]["fitted"]


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("gauss", {}, "Unknown kind of prior 'gauss'"),
        ("mixture", {"component": 3}, "did you mean 'components'"),
        ("autoregressive", {}, "needs codes"),
        ("flow", {"kind": "maf", "transforms": -1}, "transforms"),
        ("mixture", {"components": 10**12}, "its checkpoint has"),
    ],
)
def test_a_record_that_no_fit_writes_is_refused(
    kind: str, settings: dict[str, Any], message: str, folders: Path, tmp_path: Path
) -> None:
    shutil.copytree(folders / "vae-prior", tmp_path / "run")
    config = read_config(tmp_path / "run")
    config["prior"] |= {"kind": kind, "settings": settings}
    (tmp_path / "run" / "config.toml").write_text(tomli_w.dumps(config))
    path = tmp_path / "run" / "best" / "state.json"
    state = {**json.loads(path.read_text())["state"], "config": config_hash(config)}
    path.write_text(json.dumps({"sha256": digest(canonical(state)), "state": state}))
    with pytest.raises(InputError, match=message):
        pvae.open_run(tmp_path / "run")


def test_the_help_names_all_kinds() -> None:
    assert all(name in KIND_HELP for name in PRIOR_KINDS)
    assert set(PRIOR_KINDS) == set(PRIOR_MAKERS)


# ---- What is refused, in one line


class Two(pvae.LatentModel):
    """Two sites that do not depend on each other."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(x.new_zeros(()), 1.0))
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal((u + z).unsqueeze(-1), 1.0).expand([len(x), 6]).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("u", dist.Normal(x.mean(-1), 1.0))
            pyro.sample("z", dist.Normal(x.mean(-1), pyro.param("width", torch.tensor(1.0))))


class Positive(pvae.LatentModel):
    """A latent site with positive values."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand([len(x), 6]).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LogNormal(x.mean(-1), pyro.param("width", torch.tensor(1.0))))


REFUSED = {
    "two sites": (Two, "mixture", "u, z, and they are not layers"),
    "discrete site": (lambda: pvae.GMVAE(6, components=2, latent=2, hidden=(4,)), "mixture", "y is discrete"),
    "support": (Positive, "mixture", "needs real numbers of any size"),
    "condition": (
        lambda: pvae.ConditionalVAE((2, 3), condition="quadrants", latent=2, hidden=(4,), prior="conditional"),
        "mixture",
        "depends on a condition of each datum",
    ),
    "codes": (
        lambda: pvae.VQVAE(6, codes=4, latent=2, positions=3, hidden=(4,)),
        "mixture",
        "are discrete codes 0 to 3",
    ),
    "few data": (lambda: pvae.VAE(**SMALL), "mixture:components=20", "needs at least 60 data; got 40"),
    "unknown kind": (lambda: pvae.VAE(**SMALL), "mixtur", "did you mean 'mixture'"),
    "unknown setting": (lambda: pvae.VAE(**SMALL), "mixture:component=2", "did you mean 'components'"),
    "no number": (lambda: pvae.VAE(**SMALL), "mixture:components=0", "components needs a whole number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case: str, tmp_path: Path) -> None:
    make, kind, message = REFUSED[case]
    run = untrained(make())
    with pytest.raises(InputError, match=message) as caught:
        pvae.fit_prior(run, kind, DATA, out=tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_data_other_than_those_of_the_training_are_refused(folders: Path) -> None:
    run = pvae.open_run(folders / "vae")
    with pytest.raises(InputError, match="was trained on data in memory"):
        pvae.fit_prior(run)
    with pytest.raises(InputError, match="has the checksum"):
        pvae.fit_prior(run, data=pvae.load_data(1 - X, validation=10, test=10, binarise="none"))
    with pytest.raises(InputError, match="exists already"):
        pvae.fit_prior(run, data=DATA, out=folders / "vae-prior")


def test_one_of_several_processes_is_refused(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingGroup, "is_shared", True)
    with pytest.raises(InputError, match="works in one process"):
        pvae.fit_prior(pvae.open_run(folders / "vae"), data=DATA)


# ---- The command line


def test_the_command_writes_a_run_that_other_commands_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--set", "latent=2", "--hidden", "8", "--epochs", "1", "--no-progress", "--step", "eager"]
    assert command("train", "vae", *small, "--out", "run").code == 0
    done = command("fit-prior", "run", "--kind", "mixture:components=3", "--out", "fitted", "--json")
    assert done.code == 0
    record = json.loads(done.out)
    assert record["run"] == "fitted" and record["kind"] == "mixture" and record["settings"] == {"components": 3}
    options = ["--particles", "5", "--limit", "20", "--method", "elbo", "--json"]
    bounds = [json.loads(command("evaluate", name, *options).out)["elbo"]["value"] for name in ("run", "fitted")]
    direct = pvae.evaluate.elbo(pvae.open_run("fitted"), particles=5, limit=20)
    assert bounds[1] == pytest.approx(direct.value, rel=1e-12) and bounds[0] != bounds[1]
    assert command("sample", "fitted", "--count", "3", "--out", "x.npz").code == 0
    assert command("show", "fitted", "--what", "samples", "--out", "x.png").code == 0
    # the recorded validation bound is that of the prior of the training
    listed = {record["run"]: record for record in json.loads(command("runs", ".", "--json").out)["runs"]}
    assert listed["run"]["validation_bound"] is not None and listed["fitted"]["validation_bound"] is None
    assert listed["fitted"]["state"] == "prior fitted" and "mixture prior" in listed["fitted"]["model"]
    assert "with the prior of the training" in pvae.open_run("fitted")._repr_html_()
    text = command("fit-prior", "run", "--out", "second")
    assert text.code == 0 and "BIC" in text.out and "mixture of z: components" in text.out


BAD_ARGUMENTS = {
    "absent is not a run folder": ["absent", "--out", "new"],
    "Unknown kind of prior": ["vae", "--kind", "gauss", "--out", "new"],
    "exists already": ["vae", "--out", "vae-prior"],
    "There is no file absent.npz": ["vae", "--data", "absent.npz", "--out", "new"],
    "in memory": ["vae", "--out", "new"],
    "0 is not in the range": ["vae", "--draws", "0", "--out", "new"],
    "needs your consent": ["plain", "--out", "new"],
}


@pytest.mark.parametrize("message", BAD_ARGUMENTS)
def test_bad_arguments_end_with_one_line_and_2(message: str, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folders)
    done = command("fit-prior", *BAD_ARGUMENTS[message])
    assert done.code == 2 and message in done.err and "Traceback" not in done.err
    assert not Path("new").exists()
