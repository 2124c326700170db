"""Training as a whole: what comes out, what is recorded, what is left alone, and what is refused."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

import pvae
from pvae.errors import InputError
from pvae.models import LatentModel, ModelSpec, pair
from pvae.train.devices import capture_generators, isolated, resolve
from pvae.train.optimisers import make_optimiser, make_schedule, step_schedule

SPEC = ModelSpec("vae", {"latent": 2, "hidden": (8,)})


def bits(size: int = 120) -> Tensor:
    return torch.rand(size, 6, generator=torch.Generator().manual_seed(0)).round()


def splits(**options: Any) -> Any:
    return pvae.load_data(bits(), **{"validation": 20, "test": 0, **options})


def fit(model: Any = SPEC, data: Any = None, **options: Any) -> pvae.Run:
    settings = {"epochs": 2, "batch_size": 32, "validation_particles": 5, "progress": False, "step": "eager"}
    return pvae.fit(model, splits() if data is None else data, **{**settings, **options})


class Linear(LatentModel):
    """x is Normal(w z, 1) with one z: its evidence is known, and the best w too."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.5, 0.5]))
        self.v = nn.Parameter(torch.tensor([0.1, 0.1]))
        self.log_scale = nn.Parameter(torch.tensor(0.0))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z * self.w, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc = (x @ self.v).unsqueeze(-1)
            pyro.sample("z", dist.Normal(loc, self.log_scale.exp()).to_event(1))


def test_training_reaches_the_maximum_likelihood() -> None:
    """The guide's family holds the posterior, so the best ELBO is the evidence: probabilistic PCA's w."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(500, 1, generator=generator, dtype=torch.float64)
    x = z * torch.tensor([2.0, 1.0]) + torch.randn(500, 2, generator=generator, dtype=torch.float64)
    data = pvae.load_data(x, validation=0, test=0)
    run = fit(Linear(), data, epochs=120, batch_size=500, learning_rate=0.1, precision="float64", step="graph",
              schedule="exponential:gamma=0.965")  # fmt: skip
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    best = vectors[:, -1] * (values[-1] - 1.0).sqrt()
    found = run.model.w.detach() * torch.sign(run.model.w.detach()[0] * best[0])
    # the guide's scale does not matter to w; what is left is the optimiser's noise
    torch.testing.assert_close(found, best, atol=0.03, rtol=0.0)
    precision = 1 + float(best @ best)
    assert run.model.log_scale.exp().item() == pytest.approx(precision**-0.5, abs=0.02)


def test_everything_outside_is_left_alone() -> None:
    pyro.get_param_store().clear()
    state, threads = capture_generators(), torch.get_num_threads()
    handlers = len(pyro.poutine.runtime._PYRO_STACK)
    fit(threads=1)
    after = capture_generators()
    assert all(torch.equal(state[name], after[name]) for name in state)
    assert torch.get_num_threads() == threads and len(pyro.poutine.runtime._PYRO_STACK) == handlers
    assert len(pyro.get_param_store()) == 0


def test_one_seed_gives_one_run_and_another_another() -> None:
    first, again, other = fit(), fit(step="graph"), fit(seed=1)
    drop = lambda run: [{name: each for name, each in record.items() if name != "seconds"} for record in run.history]
    assert drop(first) == drop(again) != drop(other)


def test_history_equals_the_lines_on_disk(tmp_path: Path) -> None:
    run = fit(out=tmp_path / "run", objective="iwae:particles=3")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == run.history
    assert [each["epoch"] for each in run.history] == [1, 2]
    assert {"step", "loss", "validation_bound", "validation_error", "learning_rate", "seconds"} <= run.history[0].keys()
    assert run.config["objective"] == "iwae:particles=3"
    assert run.config["training"]["threads"] == torch.get_num_threads()
    assert run.config["data"]["checksum"] == splits().checksum


def test_the_loss_is_the_mean_over_the_epoch_per_datum() -> None:
    seen = []

    class Watched(Trace_ELBO):
        def loss_and_grads(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().loss_and_grads(*args, **kwargs)
            seen.append(float(loss))
            return loss

    run = fit(objective=Watched(), epochs=1)
    steps = seen[-4:]  # 100 data in batches of 32: three, and one of 4
    assert run.history[0]["loss"] == pytest.approx(sum(steps) / 100, rel=1e-6)


def test_best_parameters_are_those_of_the_best_validation_bound(tmp_path: Path) -> None:
    saved: list[dict[str, Tensor]] = []

    def keep(record: dict[str, Any], model: Any) -> None:
        saved.append({name: each.clone() for name, each in model.state_dict().items()})

    options = {"epochs": 8, "learning_rate": 0.2, "callbacks": [keep]}
    for out in (None, tmp_path / "run"):
        saved.clear()
        run = fit(**options, out=out)
        bounds = [each["validation_bound"] for each in run.history]
        best = max(range(8), key=bounds.__getitem__)
        assert best < 7, "the case is empty where the last epoch is the best"
        assert run.checkpoint == "best"
        assert all(torch.equal(each, saved[best][name]) for name, each in run.model.state_dict().items())
        run.load("last")
        assert all(torch.equal(each, saved[-1][name]) for name, each in run.model.state_dict().items())


def test_without_validation_the_best_is_the_last(tmp_path: Path) -> None:
    run = fit(data=splits(validation=0), out=tmp_path / "run")
    assert "validation_bound" not in run.history[-1]
    best, last = (pvae.open_run(tmp_path / "run", checkpoint=which).model.state_dict() for which in ("best", "last"))
    assert all(torch.equal(each, last[name]) for name, each in best.items())


def test_validation_does_not_disturb_training() -> None:
    with_it, without = fit(), fit(validation_particles=50)
    assert [each["loss"] for each in with_it.history] == [each["loss"] for each in without.history]


def test_the_validation_bound_is_the_importance_weighted_bound_of_the_same_draws() -> None:
    data = splits()
    run = fit(data=data, validation_particles=200, epochs=1, seed=7)
    with torch.no_grad(), isolated(7):
        weights = pvae.log_weights(run.model, data.validation, 200)
    bound = torch.logsumexp(weights.log_w.double(), 0) - math.log(200)
    assert run.history[0]["validation_bound"] == pytest.approx(float(bound.mean()), rel=1e-9)
    assert run.history[0]["validation_error"] == pytest.approx(float(bound.std()) / math.sqrt(20), rel=1e-9)


def test_patience_ends_a_training_that_gets_no_better() -> None:
    run = fit(epochs=60, learning_rate=0.3, patience=3)
    bounds = [each["validation_bound"] for each in run.history]
    best = max(range(len(bounds)), key=bounds.__getitem__)
    assert len(bounds) == best + 4 < 60
    with pytest.raises(InputError, match="patience needs a validation split"):
        fit(data=splits(validation=0), patience=3)


def test_a_callback_ends_a_training() -> None:
    assert fit(epochs=9, callbacks=[lambda record, model: record["epoch"] == 3]).epoch == 3


def test_dynamic_binarisation_draws_anew_and_grey_data_are_binarised_and_said(capsys: Any) -> None:
    grey = torch.rand(60, 6, generator=torch.Generator().manual_seed(0))
    fit(data=pvae.load_data(grey, validation=10, test=0), progress=None)
    assert "binarised statically" in capsys.readouterr().err
    fit(data=pvae.load_data(grey, validation=10, test=0, binarise="dynamic"))


def test_progress_goes_to_standard_error(capsys: Any) -> None:
    fit(progress=None)
    said = capsys.readouterr()
    assert said.out == ""
    assert "epoch 2/2  loss" in said.err and "validation bound" in said.err
    fit(progress=True)
    assert "epoch" in capsys.readouterr().err
    fit()
    assert capsys.readouterr() == ("", "")


def _model(x: Tensor) -> None:
    weight = pyro.param("weight", torch.ones(2, 6) * 0.1)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=z @ weight).to_event(1), obs=x)


def _guide(x: Tensor) -> None:
    weight = pyro.param("guide weight", torch.ones(6, 2) * 0.1)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x @ weight, 0.5).to_event(1))


def test_global_parameters_are_trained_saved_and_opened(tmp_path: Path) -> None:
    run = fit(pair(_model, _guide), out=tmp_path / "run", step="graph")
    found = {}
    for model in (run.model, pvae.open_run(tmp_path / "run", model=pair(_model, _guide)).model):
        with pvae.models.scope(model):
            _model(bits(3))
            found[id(model)] = pyro.param("weight").detach().clone()
    ours, theirs = found.values()
    assert torch.equal(ours, theirs) and not torch.equal(ours, torch.ones(2, 6) * 0.1)
    assert len(pyro.get_param_store()) == 0


def test_a_model_without_weights_per_datum_is_judged_by_its_objective() -> None:
    def model(x: Tensor) -> None:
        centre = pyro.sample("centre", dist.Normal(torch.zeros(6), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(centre, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(6))
        pyro.sample("centre", dist.Normal(loc, 0.1).to_event(1))

    with pytest.warns(UserWarning, match="objective's own.*'centre' is outside"):
        run = fit(pair(model, guide))
    assert run.history[-1]["validation_of"] == "objective"
    assert run.history[-1]["validation_bound"] < 0 and run.history[-1]["validation_error"] is None


def test_an_existing_folder_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    for options in ({}, {"resume": True}):
        with pytest.raises(InputError, match="was not touched"):
            fit(out=tmp_path, **options)
    assert [each.name for each in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(InputError, match="resume=True needs out="):
        fit(resume=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"optimiser": "adm"}, "did you mean 'adam'"),
        ({"optimiser": "adam:wait_decay=1"}, "did you mean 'weight_decay'"),
        ({"optimiser": "adam:lr=1"}, "learning_rate"),
        ({"optimiser": "lbfgs"}, "LBFGS evaluates"),
        ({"optimiser": 3}, "optimiser needs a name"),
        ({"schedule": "cosineaneling"}, "did you mean 'cosineannealing'"),
        ({"schedule": "cosineannealing"}, "T_max"),
        ({"schedule": "exponential:gama=1"}, "did you mean 'gamma'"),
        ({"step": "graf"}, "did you mean 'graph'"),
        ({"precision": "float16"}, "did you mean"),
        ({"device": "gpu"}, "Unknown device 'gpu'"),
        ({"device": "cuda:77"}, "this machine has"),
        ({"epochs": -1}, "epochs needs a whole number"),
        ({"batch_size": 0}, "batch_size needs"),
        ({"learning_rate": 0.0}, "learning_rate needs a positive"),
        ({"clip": math.nan}, "clip needs a positive"),
        ({"seed": -1}, "seed needs"),
        ({"on_divergence": "rolback"}, "did you mean 'rollback'"),
        ({"objective": "iwea"}, "did you mean 'iwae'"),
        ({"model": Linear()}, "x"),
    ],
)
def test_bad_options_are_refused_in_a_line_and_nothing_is_written(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises((InputError, RuntimeError), match=said) as caught:
        fit(**options, out=tmp_path / "run")
    assert "\n" not in str(caught.value) or "model" in options
    assert not (tmp_path / "run").exists()


def test_every_kind_of_optimiser_is_taken() -> None:
    groups = {"all": [nn.Parameter(torch.zeros(3))]}
    for spec in ("adam", "SGD:momentum=0.9:nesterov=true", "rmsprop", "Adagrad", "adamw:betas=0.8,0.9"):
        assert make_optimiser(spec, groups, 0.1).param_groups[0]["lr"] == 0.1, spec
    assert make_optimiser("adamw:betas=0.8,0.9", groups, 0.1).param_groups[0]["betas"] == (0.8, 0.9)
    assert make_optimiser("adam", groups, 0.1).param_groups[0]["fused"]
    assert make_optimiser(torch.optim.NAdam, groups, 0.1).param_groups[0]["lr"] == 0.1
    made = make_optimiser(lambda parameters: torch.optim.SGD(parameters, lr=0.7), groups, 0.1)
    assert made.param_groups[0]["lr"] == 0.7
    assert make_optimiser(made, groups, 0.1) is made
    with pytest.raises(InputError, match="has other tensors"):
        make_optimiser(made, {"all": [nn.Parameter(torch.zeros(3))]}, 0.1)
    two = make_optimiser("adam", {"theta": groups["all"], "phi": [nn.Parameter(torch.zeros(1))]}, 0.1)
    assert len(two.param_groups) == 2


def test_schedules_move_the_rate_once_an_epoch() -> None:
    rates = [each["learning_rate"] for each in fit(epochs=4, schedule="steplr:step_size=2:gamma=0.1").history]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])
    halves = lambda optimiser: torch.optim.lr_scheduler.LambdaLR(optimiser, lambda epoch: 0.5**epoch)
    assert fit(epochs=3, schedule=halves).history[-1]["learning_rate"] == pytest.approx(2.5e-4)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_reduce_on_plateau_sees_the_bound_go_up_as_better(mode: str) -> None:
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make_schedule(f"reducelronplateau:mode={mode}:patience=0", optimiser)
    for bound, rate in ((-5.0, 1.0), (-4.0, 1.0), (-3.0, 1.0), (-3.5, 0.1)):
        step_schedule(schedule, bound)
        assert optimiser.param_groups[0]["lr"] == pytest.approx(rate)


@pytest.mark.parametrize("optimiser", ["sgd:momentum=0.9", "nadam", "rprop", "asgd", "adadelta", "adam:amsgrad=true"])
def test_optimisers_of_every_state_resume_to_the_bit(tmp_path: Path, optimiser: str) -> None:
    whole = fit(optimiser=optimiser, epochs=3, schedule="multistep:milestones=1,2")
    options = {"optimiser": optimiser, "out": tmp_path / "run", "epochs": 3, "schedule": "multistep:milestones=1,2"}
    fit(**options, max_steps=5)
    again = fit(**options, resume=True)
    for name, each in whole.load("last").model.state_dict().items():
        assert torch.equal(each, again.load("last").model.state_dict()[name]), name
    assert [each["learning_rate"] for each in whole.history] == [each["learning_rate"] for each in again.history]


def test_bfloat16_keeps_parameters_in_float32_and_learns() -> None:
    for step in ("eager", "graph"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run = fit(precision="bfloat16", epochs=10, learning_rate=0.02, step=step)
        assert {each.dtype for each in run.model.parameters()} == {torch.float32}
        assert run.history[-1]["loss"] < run.history[0]["loss"]


def test_float64_trains_in_float64() -> None:
    run = fit(precision="float64", epochs=1)
    assert {each.dtype for each in run.model.parameters()} == {torch.float64}


def test_numpy_data_and_names_of_objectives() -> None:
    run = fit(data=np.asarray(bits()), objective=lambda: pvae.IWAE(particles=2), epochs=1)
    assert run.config["objective"] == "iwae:particles=2"


def test_auto_is_the_cpu_where_there_is_no_cuda() -> None:
    assert resolve("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.cuda
@pytest.mark.parametrize("step", ["eager", "graph"])
def test_cuda_trains_and_resumes_to_the_bit(tmp_path: Path, step: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        options = {"device": "cuda", "step": step, "epochs": 3, "data": splits(binarise="dynamic")}
        whole = fit(**options)
        fit(**options, out=tmp_path / "run", max_steps=5)
        again = fit(**options, out=tmp_path / "run", resume=True)
    assert next(whole.model.parameters()).is_cuda
    for name, each in whole.load("last").model.state_dict().items():
        assert torch.equal(each, again.load("last").model.state_dict()[name]), name
