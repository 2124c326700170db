"""How the players of GAN, AAE and ALI take turns: whose parameters move, what is kept, what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from critics import assert_equal_gradients_by_any_route
from models import Drawn, Line, Plain, Point, data, draws
from stepping import after
from torch import Tensor, nn

import pvae
from pvae.objectives import check, describe, make_objective
from pvae.programs.binding import bind
from pvae.programs.bound import BoundPrograms
from pvae.train.trainer import fit

KINDS = {"gan": pvae.GAN, "aae": pvae.AAE, "ali": pvae.ALI}

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


def groups(model: Any, objective: Any) -> dict[str, list[Tensor]]:
    return {"theta": model.theta(), "phi": model.phi(), "critic": objective.critic()}


MOVES = {
    "gan": {"critic": {"critic"}, "theta": {"theta"}},
    "aae": {"together": {"theta", "phi"}, "critic": {"critic"}, "phi": {"phi"}},
    "ali": {"critic": {"critic"}, "generator": {"theta", "phi"}},
}


@pytest.mark.parametrize("loss", ["non-saturating", "minimax", "least-squares", "wasserstein"])
@pytest.mark.parametrize("name", KINDS)
def test_each_player_reaches_its_own_groups_alone(name: str, loss: str) -> None:
    model, objective, x = Line(weight=0.3), KINDS[name](loss, hidden=(4,)), draws(16)
    for player, moved in MOVES[name].items():
        surrogate = objective.terms(model.model, model.guide, (x,), {}, player).surrogate
        for group, parameters in groups(model, objective).items():
            found = torch.autograd.grad(surrogate, parameters, allow_unused=True, retain_graph=True)
            reached = all(each is not None for each in found)
            assert reached is (group in moved), (player, group)
            assert reached or all(each is None for each in found)


@pytest.mark.parametrize("name", KINDS)
def test_the_loss_of_all_players_has_each_ones_gradient(name: str) -> None:
    """`objective(model, guide)`, a module, and plain SVI: every group gets the sum of its own players' gradients."""
    model, objective, x = Line(weight=0.3), KINDS[name](hidden=(4,)), draws(16)
    objective.loss(model.model, model.guide, x)
    assert_equal_gradients_by_any_route(objective, model, x)


@pytest.mark.parametrize("name", KINDS)
def test_a_step_updates_the_critic_as_often_as_asked(name: str) -> None:
    x, turns = draws(16).float(), []
    objective = KINDS[name](critic_steps=3, hidden=(4,))
    terms = objective.terms
    objective.terms = lambda *given: (turns.append(given[-1]), terms(*given))[1]
    model = Line()
    pvae.fit(model, x, objective=objective, epochs=1, batch_size=8, step="eager", precision="float64", progress=False)
    one = [player for player in objective.players for _ in range(3 if player == "critic" else 1)]
    assert turns[-len(one) :] == one


@pytest.mark.parametrize("name", KINDS)
def test_groups_have_learning_rates_of_their_own(name: str) -> None:
    """With Adam's first step every number moves by its rate."""
    x, model, objective = draws(8), Line(weight=0.3), KINDS[name](hidden=(4,))
    objective.loss(model.model, model.guide, x)  # makes the critic, in the type of x
    before = {group: copy.deepcopy(each) for group, each in groups(model, objective).items()}
    rates = {"theta": 1e-2, "phi": 1e-3, "critic": 1e-4}
    steps = {"theta": 1, "phi": {"gan": 0, "aae": 2, "ali": 1}[name], "critic": 1}
    options = {"epochs": 1, "batch_size": 8, "precision": "float64", "step": "eager", "progress": False}
    pvae.fit(model, x, objective=objective, learning_rate=rates, **options)
    for group, parameters in groups(model, objective).items():
        for now, then in zip(parameters, before[group], strict=True):
            moved = (now - then).abs()
            if steps[group] == 1:
                assert bool(((moved - rates[group]).abs() < 2e-3 * rates[group]).all()), group
            assert bool((moved > 0).any()) is (steps[group] > 0)
    with pytest.raises(pvae.InputError, match="needs one for 'critic' too"):
        pvae.fit(Line(), x, objective=KINDS[name](), learning_rate={"theta": 1e-3, "phi": 1e-3}, **options)


@pytest.mark.parametrize("text", ["gan:spectral=true", "aae:critic_steps=2", "ali:loss=wasserstein"])
def test_a_resumed_run_has_the_same_bits(text: str, tmp_path: Path) -> None:
    def trained(folder: str, epochs: tuple[int, ...]) -> dict[str, Tensor]:
        torch.manual_seed(1)
        for count in epochs:
            objective = make_objective(text + ":hidden=8")()
            torch.manual_seed(1)
            model = Line()
            out = tmp_path / folder
            run = fit(model, draws(64).float(), objective=objective, epochs=count, batch_size=16, out=out,
                      resume=out.exists(), step="eager", progress=False)  # fmt: skip
            run.load("last")
        return {**model.state_dict(), **objective.state_dict()}

    whole, broken = trained("whole", (2,)), trained("broken", (1, 2))
    assert whole.keys() == broken.keys() and len(whole) > 6
    assert all(torch.equal(each, broken[name]) for name, each in whole.items())


def test_spectral_norms_move_in_training_alone_and_in_the_graph_as_without() -> None:
    x, held = data(8).x.double(), []
    for graph in (True, False):
        objective = pvae.GAN(spectral=True, hidden=(16, 8))
        after(Plain, lambda: objective, graph=graph, steps=20, dtype=torch.float64)  # noqa: B023
        held.append({name: each.clone() for name, each in objective.state_dict().items()})
    assert any(name.endswith("_u") for name in held[0])
    assert all(torch.equal(each, held[1][name]) for name, each in held[0].items())
    model = Plain().double()
    objective.loss(model.model, model.guide, x)
    objective.divergence(model.model, model.guide, x)
    assert all(torch.equal(each, held[1][name]) for name, each in objective.state_dict().items())
    with torch.no_grad():
        for _ in range(20):  # the power iteration follows weights that move; without updates it converges
            objective.train().network(torch.randn(4, 6).double())
    largest = [torch.linalg.matrix_norm(each.weight, 2) for each in objective.network if isinstance(each, nn.Linear)]
    torch.testing.assert_close(torch.stack(largest), torch.ones(3, dtype=torch.float64), rtol=0.02, atol=0)
    slope = torch.func.vmap(torch.func.grad(lambda row: objective.eval().network(row).squeeze()))(
        torch.randn(50, 6).double()
    )
    assert float(slope.detach().norm(dim=1).max()) <= 1.02


def test_a_minibatch_drawn_inside_keeps_its_codes() -> None:
    """Pairs of data and codes are of the same data, although each program draws a subsample."""

    class Copied(Drawn):
        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x), subsample_size=4) as index:
                pyro.sample("z", dist.Delta(x[index][:, :2], event_dim=1))

    model, x = Copied().double(), torch.arange(120.0, dtype=torch.float64).reshape(20, 6)
    with pyro.validation_enabled(False):
        sides = pvae.ALI().sides(model.model, model.guide, (x,), {})
    assert torch.equal(sides.q[0][:, :2], sides.q[1]) and sides.q[0].shape == (4, 6)
    assert sides.scale == 5.0


class Given(Line):
    """x ~ N(c + z, 1): the condition shifts x; y is observed, and only that."""

    def model(self, x: Tensor, c: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(logits=x.new_zeros(3)), obs=y)
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.slope * z + c, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        super().guide(x)


def test_conditions_are_found_and_given_to_both_sides() -> None:
    batch = {"x": draws(12), "c": draws(12, 1), "y": torch.arange(12) % 3}
    objective, model = pvae.GAN(hidden=(4,)), Given()
    pvae.fit(model, pvae.Batch(**batch), objective=objective, epochs=1, precision="float64", progress=False)
    assert objective.network is not None and objective.network[0].in_features == 3 + 1 + 1  # one-hot y, x, c
    onehot = torch.nn.functional.one_hot(batch["y"], 3)
    assert objective.log_ratio(onehot, batch["x"], batch["c"]).shape == (12,)
    with pytest.raises(pvae.InputError, match="needs 5 numbers per datum; got 4"):
        objective.log_ratio(onehot, batch["x"])
    sides = objective.sides(model.model, lambda *_: None, tuple(batch.values()), {})
    assert torch.equal(sides.q[0].long(), onehot) and torch.allclose(sides.p[0], torch.full((12, 3), 1 / 3).double())


class Unweighted(Line):
    """x ~ N(shift[y] + z, 1), of shifts that are equal at first; a running count in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(2))
        self.register_buffer("runs", torch.zeros(()))

    def model(self, x: Tensor, y: Tensor) -> None:
        self.runs += 1
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.slope * z + self.shift[y].unsqueeze(1), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor) -> None:
        super().guide(x)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("y", [[0, 1, 0, 1], [1, 1, 1, 1], [1]])
def test_a_condition_without_weight_or_of_one_value_at_first_is_found(y: list[int], wrapped: bool) -> None:
    model, objective = Unweighted(), pvae.GAN(hidden=(4,))
    batch, before = {"x": draws(len(y)), "y": torch.tensor(y)}, copy.deepcopy(model.state_dict())
    programs = bind(model, batch) if wrapped else model
    objective.to(torch.float64)._make_critic(BoundPrograms(programs.model, programs.guide, tuple(batch.values())))
    assert objective.network is not None and objective.network[0].in_features == 1 + 1  # x, y
    now = model.state_dict()
    assert all(torch.equal(now[name], each) for name, each in before.items() if name != "runs")
    assert now["runs"] == 1  # the looks left it alone; the critic's width is from a draw


def test_what_a_mask_leaves_out_is_not_judged() -> None:
    class Holes(Line):
        def model(self, x: Tensor, mask: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.slope * z.expand(-1, 3), 1.0).mask(mask.bool()).to_event(1), obs=x)

        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))

    x, mask = draws(30).reshape(10, 3), torch.arange(30).reshape(10, 3) % 2
    sides = pvae.GAN().sides(Holes().model, lambda *_: None, (x, mask), {})
    assert torch.equal(sides.q[0], x * mask) and torch.equal(sides.p[0] == 0, mask == 0)


def test_a_model_without_a_guide_is_enough_for_gan() -> None:
    class Alone(Line):
        def guide(self, x: Tensor) -> None:
            pass

    x, model = draws(2000) * 0.5 - 1.0, Alone(loc=1.0)
    found = check(model, {"x": x}, "gan")
    assert not found.fatal and {each.kind for each in found} == {"untrained guide", "biased"}
    objective = pvae.GAN(hidden=(16,), spectral=True)
    rates = {"theta": 2e-2, "critic": 2e-2}
    pvae.fit(model, x, objective=objective, learning_rate=rates, epochs=10, batch_size=100, precision="float64",
             progress=False)  # fmt: skip
    assert abs(model.loc.item() + 1.0) < 0.35  # from 1, towards the data's mean of -1


class Learned(Line):
    """A discrete z whose prior is learned: no gradient would reach it."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(logits=self.loc.expand(len(x), 1)).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=self.weight * x).to_event(1))


class Looking(Line):
    """x given the x before it, read from the data."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(0.5 * x, 1.0).to_event(1), obs=x)


class Nothing(Line):
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))


@pytest.mark.parametrize(
    ("model", "name", "said"),
    [
        (Learned, "gan", "needs to reach theta through the draws; site 'z' .Bernoulli. has no gradient"),
        (Learned, "ali", "needs to reach phi through the draws; site 'z' .Bernoulli. has no gradient"),
        (Learned, "aae", "site 'z' .Bernoulli. lets none|needs reparameterised guide sites"),
        (Looking, "gan", "depends on its observation at site 'x'"),
        (Nothing, "gan", "needs an observed site of the model"),
    ],
)
def test_what_cannot_be_matched_is_said_in_a_line(model: type, name: str, said: str) -> None:
    with pytest.raises(pvae.InputError, match=said):
        check(model(), {"x": draws(8).round().abs().clamp(max=1)}, name).require()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gan:loss=hinge", "Unknown loss of GAN 'hinge'"),
        ("gan:critic_steps=0", "critic_steps needs a whole number of at least 1"),
        ("aae:penalty=-1", "penalty needs a number of at least 0; got -1"),
        ("ali:loss=wasserstein:penalty=0", "has to be bounded"),
        ("gan:critic=mine", "critic needs to be a torch.nn.Module"),
        ("gan:hidden=0", "hidden needs whole numbers of at least 1; got 0"),
    ],
)
def test_bad_settings_are_refused(text: str, said: str) -> None:
    with pytest.raises(pvae.InputError, match=said):
        make_objective(text)


def astray(record: Any, model: Line) -> None:
    model.weight.data.fill_(9.0)  # so that the bound of the next epoch is worse


def test_a_record_tells_what_the_critic_sees_and_keeps_the_last_parameters() -> None:
    splits = pvae.load_data(draws(60).float().numpy(), validation=0.2, test=0.0)
    run = pvae.fit(Line(), splits, objective="gan", epochs=2, step="eager", progress=False)
    assert {"loss", "theta_loss", "jensen_shannon", "critic_accuracy"} <= run.history[0].keys()
    assert "validation_bound" not in run.history[0] and run.epoch == 2
    for name in KINDS:
        with pytest.raises(
            pvae.InputError,
            match=r"patience needs .* bound that ranks parameters: no validation score ranks adversarial training",
        ):
            pvae.fit(Line(), splits, objective=name, epochs=2, patience=1, step="eager", progress=False)
    for name in ("aae", "ali"):
        options = {"epochs": 2, "step": "eager", "progress": False}
        run = pvae.fit(Line(), splits, objective=name, callbacks=(astray,), **options)
        first, last = (each["validation_bound"] for each in run.history)
        assert first > last and "validation_of" not in run.history[0] and run.checkpoint == "best"
        best = {name: each.clone() for name, each in run.model.state_dict().items()}
        assert all(torch.equal(each, best[name]) for name, each in run.load("last").model.state_dict().items())
        assert {"jensen_shannon", "critic_accuracy"} <= run.history[0].keys()
        run = pvae.fit(Point(), splits, objective=name, epochs=1, step="eager", progress=False)
        assert "validation_bound" not in run.history[0]


def test_a_run_without_a_guide_is_not_judged_by_one(tmp_path: Path) -> None:
    splits = pvae.load_data(draws(40).float().numpy(), test=0.5)
    objective = pvae.GAN(critic=nn.Linear(1, 1))
    run = pvae.fit(Line(), splits, objective=objective, epochs=1, step="eager", progress=False)
    assert describe(pvae.GAN("least-squares", 2, hidden=8)) == "gan:loss=least-squares:hidden=8:critic_steps=2"
    with pytest.raises(pvae.InputError, match="trained by 'gan:critic=Linear', which leaves the guide untrained"):
        pvae.evaluate.log_evidence(run, splits, 10)
    with pytest.raises(pvae.InputError, match="'gan' does not train the guide"):
        pvae.compare({"line": Line}, splits, ["elbo", "gan"], out=tmp_path / "x", workers=0)
    assert not (tmp_path / "x").exists()
