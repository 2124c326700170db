"""A comparison refuses a folder with cells of other code: of a file, a notebook, a factory or an objective."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

import pvae
from pvae.comparison.base import Cell
from pvae.comparison.cells.cell_files import check_folder, read_outcome, write_config, write_evaluation
from pvae.comparison.planned_comparison import plan_comparison
from pvae.errors import InputError
from pvae.models.build import describe_value

X = torch.eye(4).repeat(5, 1)
MODEL = """
import pyro, pyro.distributions as dist, torch
import pvae

FACTOR = 2

def double(z, power=1):
    return FACTOR * z ** power

class Model(pvae.LatentModel):
    beta = 1.0

    def __init__(self, latent=2):
        super().__init__()
        self.decoder = torch.nn.Linear(latent, 4)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), self.decoder.in_features), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(double(z))).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(len(x), self.decoder.in_features), 1.0).to_event(1))

class Doubled(pvae.IWAE):
    pass
"""


def plan(folder, models, objectives=("elbo",)):
    return plan_comparison(models, X, objectives, 1, 1, folder, particles=5).jobs


def require_refusal(folder, jobs, words):
    with pytest.raises(InputError, match=words):
        check_folder(folder, jobs)


def test_a_changed_file_of_a_model_is_noticed(tmp_path):
    file, out = tmp_path / "my.py", tmp_path / "out"
    file.write_text(MODEL)
    for job in plan(out, f"{file}:Model"):
        write_config(job.cell)
    file.write_text(MODEL.replace("latent=2", "latent=3"))
    require_refusal(out, plan(out, f"{file}:Model"), r"model code my.py was 'sha256 .*', now 'sha256 ")
    file.write_text(MODEL)
    assert not check_folder(out, plan(out, f"{file}:Model", ("elbo", "iwae:particles=2")))


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("FACTOR * z", "FACTOR + z", "model code double"),
        ("power=1", "power=2", "model code double"),
        ("FACTOR = 2", "FACTOR = 3", "model code FACTOR"),
        ("beta = 1.0", "beta = 2.0", "model code Model.beta"),
        ("super().__init__()", "super().__init__(); self.scale = 2", "model code Model.__init__"),
        (
            "(pvae.IWAE):\n    pass",
            "(pvae.IWAE):\n    def surrogate(self, w):\n        return w.sum()",
            "objective code",
        ),
    ],
)
@pytest.mark.parametrize("attributes", [{}, {"__file__": "<stdin>"}], ids=["notebook", "pipe"])
def test_a_changed_definition_of_a_session_is_noticed(tmp_path, monkeypatch, old, new, name, attributes):
    def run_session(code):
        session = ModuleType("__main__")
        vars(session).update(attributes)
        monkeypatch.setitem(sys.modules, "__main__", session)
        exec(code, vars(session))
        objectives = {"elbo": "elbo", "own": session.Doubled}
        return plan(tmp_path, {"own": session.Model}, objectives)

    for job in run_session(MODEL):
        write_config(job.cell)
    assert not check_folder(tmp_path, run_session(MODEL))
    require_refusal(tmp_path, run_session(MODEL.replace(old, new)), name)


def test_a_factory_that_makes_another_built_in_model_is_noticed(tmp_path):
    def factory(latent):
        return lambda: pvae.VAE(4, latent=latent, hidden=8)

    for job in plan(tmp_path, {"vae": factory(2)}):
        write_config(job.cell)
    assert not check_folder(tmp_path, plan(tmp_path, {"vae": factory(2)}))
    require_refusal(tmp_path, plan(tmp_path, {"vae": factory(3)}), "model arguments latent was 2, now 3")


def test_an_evaluation_of_other_options_is_damaged(tmp_path):
    cells = {epochs: Cell("m", "elbo", 0, tmp_path / "seed-0", {"fit": {"epochs": epochs}}) for epochs in (2, 6)}
    cells[6].folder.mkdir()
    write_evaluation(cells[6], {"log_evidence": None}, {"elbo": torch.zeros(3, dtype=torch.float64)})
    assert not read_outcome(cells[6]).failure
    assert read_outcome(cells[2]).failure.endswith("it is the evaluation of a training with other options")


def test_a_set_among_the_arguments_of_a_model_has_the_same_text_in_every_process() -> None:
    assert describe_value({"b", "a", "c"}) == describe_value(frozenset("cab")) == ["a", "b", "c"]
