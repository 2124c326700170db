"""Semi-supervised models against closed forms, explicit sums, gradients by hand, and all batches one by one."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pyro
import pytest
import torch
from command_line import run as command
from exact import (
    LABELLED_BEST_FACTORISED,
    LABELLED_LOG_EVIDENCE,
    LABELLED_LOG_JOINT,
    LABELLED_POSTERIOR,
    Labelled,
    LabelledModel,
    labelled_batch,
)
from forcing import Forced
from models import DOUBLE, FreeGaussian, labelled_vae
from pyro.infer import SVI, TraceEnum_ELBO

import pvae
from pvae.data import minibatches, steps_of_epoch
from pvae.densities import GivenLabel, label_posterior
from pvae.models import codes_of
from pvae.objectives import make_objective

BOUND = {"weight": 0.0}  # the bound alone
QUICK = {"step": "eager", "validation_particles": 2, "progress": False}

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def terms(objective, model, data, player="all"):
    return objective.terms(model.model, model.guide, (data["x"], data["y"]), {}, player)


def gradients(objective, model, data, parameters=None):
    found = terms(objective, model, data).surrogate
    parameters = list(model.parameters()) if parameters is None else parameters
    held = torch.autograd.grad(found, [each for each in parameters if each.requires_grad], allow_unused=True)
    return [torch.zeros(()) if each is None else each for each in held]


def climb(loss, parameters):
    optimiser = torch.optim.LBFGS(parameters, max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)
    return -loss().item()


# ---- the bound, exactly


def test_the_best_classifier_is_the_posterior_and_the_bound_is_the_evidence():
    """U* = logsumexp log p(x, y), reached where q(y) is proportional to p(x, y): equation 7."""
    model, objective, data = LabelledModel(), pvae.SemiSupervised(**BOUND), labelled_batch(-1)
    best = climb(lambda: objective.differentiable_loss(model.model, model.guide, data["x"], data["y"]), model.phi())
    assert best == pytest.approx(LABELLED_LOG_EVIDENCE, abs=1e-9)
    torch.testing.assert_close(model.classify(data["x"]).probs[0].detach(), LABELLED_POSTERIOR, rtol=0, atol=1e-5)


@pytest.mark.parametrize("infer_labels", ["enumerated", "sampled"])
def test_the_class_of_the_package_reaches_the_same(infer_labels):
    """With its parts set to the toy's, whatever z and y are drawn."""
    model = labelled_vae(infer_labels=infer_labels)
    found = -terms(pvae.SemiSupervised(**BOUND), model, as_column(labelled_batch(-1, 0, 1))).loss
    assert found.item() == pytest.approx(LABELLED_LOG_EVIDENCE + LABELLED_LOG_JOINT.sum().item(), abs=1e-8)


def as_column(data):
    return {**data, "x": data["x"].unsqueeze(-1)}


def test_the_factorised_guide_loses_what_it_must():
    """q(y given x) q(z given x) tops out .2385 nats below: z is integrated on a grid, y summed."""
    noise = torch.linspace(-8, 8, 161, dtype=DOUBLE)
    mass = torch.softmax(-0.5 * noise**2, 0)
    model = labelled_vae(FreeGaussian(), factorised=True)
    x, y = torch.full((161, 1), 0.4, dtype=DOUBLE), torch.full((161,), -1)
    programs = [pyro.poutine.scale(each, scale=mass) for each in (model.model, model.guide)]
    objective = pvae.SemiSupervised(gradients={"z": "pathwise"}, **BOUND)
    parameters = [model.posterior.loc, model.posterior.log_scale, model.classifier[1].bias]
    best = []
    for start in (-1.0, 0.0, 1.0):
        with torch.no_grad():
            model.posterior.loc.fill_(start)
            model.posterior.log_scale.zero_()
            model.classifier[1].bias.copy_(torch.tensor([start, -start]))
        with Forced(noise={"z": noise}):
            best.append(climb(lambda: objective.terms(*programs, (x, y), {}, "all").surrogate, parameters))
    assert max(best) == pytest.approx(LABELLED_BEST_FACTORISED, abs=1e-6)
    assert LABELLED_LOG_EVIDENCE - max(best) == pytest.approx(0.2385, abs=1e-4)


def test_a_known_label_is_bounded_as_log_p_of_both_and_a_batch_is_the_sum_of_its_parts():
    model, objective = LabelledModel(), pvae.SemiSupervised(**BOUND)
    single = [terms(objective, model, labelled_batch(y)).loss.item() for y in (-1, 0, 1)]
    np.testing.assert_allclose(-np.array(single[1:]), LABELLED_LOG_JOINT.numpy(), rtol=1e-9)
    q = model.classify(labelled_batch(-1)["x"]).probs[0].detach()
    np.testing.assert_allclose(-single[0], (q * (LABELLED_LOG_JOINT - q.log())).sum().item(), rtol=1e-9)
    mixed = labelled_batch(-1, 0, 1)
    np.testing.assert_allclose(terms(objective, model, mixed).loss.item(), sum(single), rtol=1e-12)
    apart = [gradients(objective, model, labelled_batch(y)) for y in (-1, 0, 1)]
    apart = [sum(each) for each in zip(*apart, strict=True)]
    for whole, parts in zip(gradients(objective, model, mixed), apart, strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-12, atol=1e-15)


def test_known_labels_train_no_classifier_through_the_bound():
    for each in gradients(pvae.SemiSupervised(**BOUND), LabelledModel(), labelled_batch(0, 1)):
        assert not each.any()


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_impossible_labels_leave_no_nan_in_either_enumeration(dtype):
    model = pvae.SemiSupervisedVAE(6, 3, latent=2, hidden=4).to(dtype)
    with torch.no_grad():
        model.classifier[1].weight.mul_(1e3)  # probabilities that underflow too
    data = {"x": torch.rand(5, 6).round().to(dtype), "y": torch.tensor([0, -1, 2, -1, 1])}
    found = []
    for objective in (pvae.SemiSupervised(**BOUND), pvae.objectives.adapt(TraceEnum_ELBO(max_plate_nesting=1))):
        torch.manual_seed(3)
        found.append([terms(objective, model, data).loss, *gradients(objective, model, data)])
    assert all(torch.isfinite(each).all() for each in (*found[0], *found[1]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=0)


def test_enumeration_is_the_explicit_sum_over_labels():
    """Values and gradients, on the same draws, with and without a label."""
    model = pvae.SemiSupervisedVAE(6, 3, latent=2, hidden=4, label_prior="learned").double()
    with torch.no_grad():
        model.label_logits.copy_(torch.tensor([0.2, -0.4, 0.1]))
    data = {"x": torch.rand(4, 6).round().double(), "y": torch.tensor([2, -1, 0, -1])}
    parameters = list(model.parameters())

    def by_hand():
        every, log_q = torch.arange(3).unsqueeze(-1), model.classify(data["x"]).logits.T
        code = model.code(every)
        z = (density := model.encode(data["x"], code)).rsample()
        prior = torch.log_softmax(model.label_logits, 0).unsqueeze(-1)
        log_p = prior + model.prior_density().log_prob(z) + model.decode(z, code).log_prob(data["x"])
        bound = log_p - density.log_prob(z)  # (classes, batch)
        hidden = (log_q.exp() * (bound - log_q)).sum(0)
        known = bound.gather(0, data["y"].clamp_min(0).unsqueeze(0))[0]
        return torch.where(data["y"] < 0, hidden, known).sum()

    torch.manual_seed(5)
    expected = by_hand()
    wanted = torch.autograd.grad(expected, parameters)
    torch.manual_seed(5)
    found = terms(pvae.SemiSupervised(**BOUND), model, data)
    assert found.loss.item() == pytest.approx(-expected.item(), rel=1e-12)
    for mine, hand in zip(torch.autograd.grad(found.surrogate, parameters), wanted, strict=True):
        torch.testing.assert_close(mine, -hand, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("particles", [1, 2])
def test_the_gradient_of_drawn_labels_has_the_mean_of_the_enumerated_one(particles):
    """All outcomes of the draws, each by its probability."""
    marked, drawn, data = LabelledModel(), LabelledModel(marked=False), labelled_batch(-1)
    expected = gradients(pvae.SemiSupervised(**BOUND), marked, data)
    objective, probabilities = pvae.SemiSupervised(particles=particles, **BOUND), marked.classify(data["x"]).probs[0]
    total = [torch.zeros(2, dtype=DOUBLE), torch.zeros(2, dtype=DOUBLE)]
    for outcome in itertools.product(range(2), repeat=particles):
        with Forced({"y": torch.tensor(outcome)[:, None]}):
            found = gradients(objective, drawn, data)
        share = probabilities[list(outcome)].prod().detach()
        total = [mean + share * each for mean, each in zip(total, found, strict=True)]
    for mean, exact in zip(total, expected, strict=True):
        torch.testing.assert_close(mean, exact, rtol=1e-9, atol=1e-12)


# ---- the classifier's term


def test_the_classifier_term_is_the_mean_cross_entropy_of_labelled_data():
    """Value and gradient by hand; hidden data have no part in it."""
    model, data = LabelledModel(slope=(0.5, -1.0)), labelled_batch(1, -1, 0, 0, -1)
    data["x"] = torch.linspace(-1, 1, 5, dtype=DOUBLE)
    known = data["y"] >= 0
    q = model.classify(data["x"]).probs.detach()
    one_hot = torch.nn.functional.one_hot(data["y"].clamp_min(0), 2)
    for weight in (1.0, 0.3):
        objective = pvae.SemiSupervised(weight, generative=False)
        found = terms(objective, model, data)
        right = -(q[known, data["y"][known]]).log().mean()
        assert found.loss.item() == pytest.approx(5 * weight * right.item(), rel=1e-12)
        slope, bias = gradients(objective, model, data)
        residual = 5 * weight * (q - one_hot)[known] / 3
        torch.testing.assert_close(bias, residual.sum(0), rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(slope, (residual * data["x"][known, None]).sum(0), rtol=1e-12, atol=1e-15)
        assert found.named["accuracy"].item() == 5 / 3 * (q.argmax(1) == data["y"])[known].sum().item()
    whole = terms(pvae.SemiSupervised(0.3), model, data).loss - terms(pvae.SemiSupervised(0.0), model, data).loss
    torch.testing.assert_close(whole, found.loss, rtol=1e-10, atol=0)


def test_a_plain_svi_script_trains_the_classifier_alone():
    model, data = LabelledModel(), labelled_batch(0, 1, 1, 1)
    svi = SVI(model.model, model.guide, pyro.optim.SGD({"lr": 0.3}), pvae.SemiSupervised(1.0, generative=False))
    for _ in range(100):
        svi.step(data["x"], data["y"])
    share = model.classify(data["x"]).probs[0].detach()
    torch.testing.assert_close(share, torch.tensor([0.25, 0.75], dtype=DOUBLE), rtol=0, atol=1e-6)


def test_two_functions_with_a_classifier_of_their_own_train_alike():
    model, data = LabelledModel(), labelled_batch(0, -1, 1)
    pair = pvae.pair(lambda x, y: model.model(x, y), lambda x, y: model.guide(x, y))
    mine = terms(pvae.SemiSupervised(0.7), model, data).loss
    assert terms(pvae.SemiSupervised(0.7, classify=model.classify), pair, data).loss == mine
    with pytest.raises(pvae.InputError, match=r"or write a method classify\(self, x\)"):
        terms(pvae.SemiSupervised(0.7), pair, data)


# ---- batches


@pytest.mark.parametrize("labelled", [0.1, 0.0])
def test_all_batches_together_are_the_objective_of_all_data(labelled):
    """Loss and gradient per datum: over every batch of one labelled and two hidden data, or of any three of the six."""
    model = LabelledModel(slope=(0.5, -1.0))
    data = {"x": torch.linspace(-1, 2, 6, dtype=DOUBLE), "y": torch.tensor([-1, 1, -1, -1, 0, -1])}
    known, hidden = [1, 4], [0, 2, 3, 5]
    objective = pvae.SemiSupervised(0.3, share=2 / 6, labelled=labelled)
    losses, slopes = [], []
    apart = ((own, *others) for own, others in itertools.product(known, itertools.combinations(hidden, 2)))
    for chosen in apart if labelled else itertools.combinations(range(6), 3):
        few = {name: each[list(chosen)] for name, each in data.items()}
        losses.append(terms(objective, model, few).loss / 3)
        slopes.append(gradients(objective, model, few)[0] / 3)
    joint, q = Labelled().log_joint(data["x"]), model.classify(data["x"])
    bound = torch.where(data["y"] < 0, (q.probs * (joint - q.logits)).sum(1), joint[range(6), data["y"].clamp_min(0)])
    expected = -bound.mean() + 0.3 * -q.log_prob(data["y"].clamp_min(0))[known].mean()
    torch.testing.assert_close(torch.stack(losses).mean(), expected.detach(), rtol=1e-10, atol=0)
    (slope,) = torch.autograd.grad(expected, [model.slope])
    torch.testing.assert_close(torch.stack(slopes).mean(0), slope, rtol=1e-10, atol=0)


def labelled_data(size=53, known=5):
    y = torch.full((size,), -1)
    y[torch.arange(known) * 7] = torch.arange(known) % 3
    return pvae.Batch(x=torch.arange(size).float().unsqueeze(1), y=y)


def test_each_minibatch_has_its_labelled_data_and_each_hidden_one_comes_once():
    data = labelled_data()
    found = list(minibatches(data, 10, seed=1, epoch=2, labelled=0.2))
    assert len(found) == steps_of_epoch(data, 10, 0.2) == 6
    assert [int((each.y >= 0).sum()) for each in found] == [2] * 6
    hidden = torch.cat([each.x[each.y < 0, 0] for each in found])
    assert sorted(hidden.tolist()) == data.x[data.y < 0, 0].tolist()
    counts = torch.stack([torch.cat([each.x[each.y >= 0, 0] for each in found]) == place for place in data.x[:29:7, 0]])
    assert sorted(counts.sum(1).tolist()) == [2, 2, 2, 3, 3]
    again = list(minibatches(data, 10, seed=1, epoch=2, labelled=0.2, start=4))
    assert [each.x.tolist() for each in again] == [each.x.tolist() for each in found[4:]]
    other = list(minibatches(data, 10, seed=1, epoch=3, labelled=0.2))
    for kind in (lambda each: each.y >= 0, lambda each: each.y < 0):  # both in another order in another epoch
        orders = [torch.cat([each.x[kind(each), 0] for each in epoch]).tolist() for epoch in (found, other)]
        assert orders[0] != orders[1]


def test_a_share_above_the_least_is_kept_and_labels_of_one_kind_change_nothing():
    half = pvae.Batch(x=torch.arange(20).float().unsqueeze(1), y=torch.arange(20) % 2 - 1)
    assert {int((each.y >= 0).sum()) for each in minibatches(half, 10, seed=0, epoch=0, labelled=0.1)} == {5}
    for y in (torch.zeros(20).long(), -torch.ones(20).long()):
        plain = [each.x.tolist() for each in minibatches(half.replace(y=y), 6, seed=0, epoch=0)]
        assert [each.x.tolist() for each in minibatches(half.replace(y=y), 6, seed=0, epoch=0, labelled=0.5)] == plain


def test_fit_takes_the_share_from_the_data():
    x = torch.full((40, 1), 0.4)
    data = pvae.load_data({"x": x, "y": torch.arange(40) % 2}, validation=0, test=0, binarise="none", labels=4)
    objective = pvae.SemiSupervised(labelled=0.5)
    run = pvae.fit(small(1), data, objective=objective, epochs=1, batch_size=8, **QUICK)
    assert objective._counts_of_data(torch.tensor([0, 1, -1, -1]), DOUBLE).tolist() == [0.2, 0.2, 1.8, 1.8]
    assert run.history[-1]["step"] == 9
    assert run.config["objective"] == "semi-supervised:weight=100.0:labelled=0.5:particles=1"


def test_the_classifier_alone_is_ranked_by_its_own_loss():
    fields = {"x": torch.randn(40, 6), "y": torch.arange(40) % 2}
    data = pvae.load_data(fields, validation=10, test=0, binarise="none", labels=4)
    objective = pvae.SemiSupervised(2.0, generative=False)
    run = pvae.fit(small(), data, objective=objective, epochs=1, batch_size=8, **QUICK)
    q = run.model.classify(data.validation.x)
    expected = 2.0 * q.log_prob(data.validation.y).mean().item()
    assert run.history[-1]["validation_bound"] == pytest.approx(expected, rel=1e-5)
    assert run.history[-1]["validation_of"] == "objective"


def small(features=6, classes=2, **settings):
    settings = {"latent": 2, "hidden": 4, "likelihood": "gaussian", **settings}
    return pvae.SemiSupervisedVAE(features, classes, **settings)


# ---- labels of the data


def test_labels_are_kept_evenly_and_hidden_elsewhere():
    y = torch.arange(200) % 10
    load = {"validation": 20, "test": 30}
    plain = pvae.load_data({"x": torch.rand(200, 2), "y": y}, **load)
    for count in (100, 23, 10, 0):
        data = pvae.load_data({"x": plain.train.x, "y": plain.train.y}, validation=0, test=0, labels=count, seed=4)
        known = data.train.y[data.train.y >= 0]
        each = torch.bincount(known, minlength=10)
        assert len(known) == count and each.max() - each.min() <= 1
        assert torch.equal(data.train.y[data.train.y >= 0], plain.train.y[data.train.y >= 0])
        assert data.labels == count and data.summary()["labels"] == count
    first, again, other = (pvae.load_data(plain, labels=23).train.y, plain.with_labels(23), plain.with_labels(50))
    assert torch.equal(first, again.train.y) and again.checksum not in (plain.checksum, other.checksum)
    assert torch.equal(again.test.y, plain.test.y) and torch.equal(again.validation.y, plain.validation.y)


def test_a_class_with_few_data_leaves_its_place_to_others():
    y = torch.cat([torch.zeros(3), torch.ones(40), torch.full((40,), 2.0)]).long()
    data = pvae.load_data({"x": torch.rand(83, 1), "y": y}, validation=0, test=0, labels=21)
    assert torch.bincount(data.train.y[data.train.y >= 0]).tolist() == [3, 9, 9]


def test_other_seeds_keep_other_labels():
    fields = {"x": torch.rand(60, 1), "y": torch.arange(60) % 3}
    kept = {tuple(pvae.load_data(fields, validation=0, test=0, labels=6, seed=s).train.y.tolist()) for s in range(5)}
    assert len(kept) == 5


@pytest.mark.parametrize(
    ("fields", "labels", "said"),
    [
        ({"x": torch.rand(9, 1)}, 3, "these data have none"),
        ({"x": torch.rand(9, 1), "y": torch.arange(9) % 3}, 10, "more than the 9"),
        ({"x": torch.rand(9, 1), "y": torch.arange(9) % 3}, 2, "less than the 3 classes"),
        ({"x": torch.rand(9, 1), "y": torch.arange(9) % 3}, -1, "labels needs a whole number of at least 0; got -1"),
        ({"x": torch.rand(9, 1), "y": torch.rand(9)}, 3, "one whole number y per datum"),
        ({"x": torch.rand(9, 1), "y": torch.arange(9) % 3 - 1}, 7, "more than the 6"),
    ],
)
def test_labels_that_cannot_be_kept_are_refused(fields, labels, said):
    with pytest.raises(pvae.InputError, match=said):
        pvae.load_data(fields, validation=0, test=0, labels=labels)


@pytest.mark.parametrize(
    ("y", "said"),
    [
        (torch.full((8,), -1), "-1, hidden, for all 8"),
        (torch.tensor([0, 1, 2, 3, 0, -1, -1, 0]), "1 labels are outside the 3 classes, .* first is y=3, of datum 3"),
        # five labels, which are numbered from 0 on
        (
            torch.tensor([0, 1, 2, -2, 0, -1, -1, 0]),
            r"2 labels are outside the 3 classes, .* first is y=3, of datum 1\.",
        ),
        (None, "no field y"),
    ],
)
def test_labels_that_the_model_cannot_learn_from_are_refused(y, said):
    fields = {"x": torch.rand(8, 6), **({} if y is None else {"y": y})}
    data = pvae.load_data(fields, validation=0, test=0, binarise="none")
    with pytest.raises(pvae.InputError, match=said):
        pvae.fit(small(classes=3), data, progress=False)


@pytest.mark.parametrize("y", [np.arange(9.0), np.full(9, -1), np.eye(9) / 2, None])
def test_data_without_labels_as_whole_numbers_are_refused(y, tmp_path):
    np.savez(tmp_path / "data.npz", x=np.zeros((9, 4)), **({} if y is None else {"y": y}))
    done = command("train", "ssvae", "--data", str(tmp_path / "data.npz"), "--out", str(tmp_path / "run"))
    assert done.code == 2 and "ssvae needs classes: labels y in the data, whole numbers" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--labels 5", "less than the 10 classes"),
        ("--labels 0", "hidden, for all 1294"),
        ("--labels 100 --set classes=5", "are outside the 5 classes"),
        ("--labels 100 --set infer_labels=guessed", "Unknown infer_labels 'guessed'"),
    ],
)
def test_the_command_line_refuses_in_one_line(options, said, tmp_path):
    done = command("train", "ssvae", *options.split(), "--epochs", "1", "--out", str(tmp_path / "run"), "--no-progress")
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1 and "Traceback" not in done.err
    assert not (tmp_path / "run").exists()


def test_the_linter_names_labels_outside_the_classes_and_programs_without_labels():
    data = {"x": torch.rand(4, 6), "y": torch.tensor([0, 5, -1, 1])}
    assert pvae.check(small(), data, "semi-supervised")[0].kind == "outside the support"
    plain = pvae.VAE(6, latent=2, hidden=4, likelihood="gaussian")
    assert "they take none" in str(pvae.check(plain, data, "semi-supervised").fatal)
    assert not pvae.check(small(), {**data, "y": torch.tensor([0, 1, -1, 1])}, "semi-supervised")


@pytest.mark.parametrize("y", [[0.0, 1.0, 0.5], [0, 1, 7], [0, -2, 1]])
def test_evaluations_name_labels_outside_the_classes(y):
    data = {"x": torch.rand(3, 6), "y": torch.tensor(y)}
    with pytest.raises(pvae.InputError, match="1 labels of these data are outside the 2 classes"):
        pvae.evaluate.elbo(small(), data, particles=2)


def test_one_label_serves_all_samples_and_halves_serve_none():
    model = small()
    assert model.sample(3, y=1).shape == (3, 6)
    with pytest.raises(pvae.InputError, match="one whole number"):
        model.sample(2, y=torch.tensor([0.0, 0.5]))


@pytest.mark.parametrize("text", ["weight=-1", "labelled=2", "share=-1", "generative=false:weight=0", "classify=3"])
def test_settings_that_mean_nothing_are_refused(text):
    with pytest.raises(pvae.InputError):
        make_objective(f"semi-supervised:{text}")


# ---- the densities of labels


def test_the_density_of_a_given_label_is_certain_or_silent():
    label = torch.arange(3)
    assert GivenLabel(label, 3).log_prob(torch.tensor([0, 2, -1])).tolist() == [0.0, -float("inf"), 0.0]
    assert torch.equal(GivenLabel(label, 3).sample((2,)), label.expand(2, 3))
    logits = torch.tensor([[0.3, -0.2], [0.3, -0.2]], requires_grad=True)
    density = label_posterior(logits, torch.tensor([-1, 1]))
    torch.testing.assert_close(density.probs[0], torch.softmax(logits[0], 0))
    assert density.probs[1].tolist() == [0.0, 1.0] and density.log_prob(torch.tensor(1))[1] == 0


# ---- evaluation


def test_the_evidence_is_that_of_what_is_known():
    golden = [LABELLED_LOG_EVIDENCE, *LABELLED_LOG_JOINT.tolist()]
    found = pvae.evaluate.log_evidence(LabelledModel(), pvae.Batch(**labelled_batch(-1, 0, 1)), particles=3)
    np.testing.assert_allclose(found.pointwise.numpy(), golden, rtol=1e-8)
    column = pvae.Batch(**as_column(labelled_batch(-1, 0, 1)))
    found = pvae.evaluate.log_evidence(labelled_vae(), column, particles=3)
    np.testing.assert_allclose(found.pointwise.numpy(), golden, rtol=1e-8)


def test_accuracy_counts_labelled_data_that_are_right():
    model = LabelledModel(slope=(1.0, -1.0))
    x = torch.linspace(-2, 2, 9, dtype=DOUBLE)
    y = torch.tensor([1, 1, 0, 1, -1, 0, 1, 0, -1])
    right = (model.classify(x).logits.argmax(1) == y)[y >= 0].double()
    found = pvae.evaluate.accuracy(model, pvae.Batch(x=x, y=y), chunk=2)
    assert found.count == 7 and found.value == right.mean() == 5 / 7
    assert found.error == pytest.approx(right.std().item() / 7**0.5)
    with pytest.raises(pvae.InputError, match="needs data with labels"):
        pvae.evaluate.accuracy(model, pvae.Batch(x=x, y=torch.full((9,), -1)))
    with pytest.raises(pvae.InputError, match="or write a method classify"):
        pvae.evaluate.accuracy(pvae.VAE(1, latent=1), pvae.Batch(x=x.unsqueeze(1), y=y))


def test_training_records_accuracy_and_reloads_with_its_labels(tmp_path):
    x = torch.cat([torch.randn(60, 2) + 4, torch.randn(60, 2) - 4])
    y = torch.arange(2).repeat_interleave(60)
    data = pvae.load_data({"x": x, "y": y}, validation=20, test=20, binarise="none", labels=6)
    options = {"epochs": 8, "batch_size": 20, "learning_rate": 0.02, **QUICK}
    run = pvae.fit(small(2), data, out=tmp_path / "run", **options)
    assert run.config["objective"] == "semi-supervised:weight=100.0:particles=1"
    assert run.config["data"]["labels"] == 6 and run.config["data"]["classes"] == 2
    assert run.history[-1]["validation_accuracy"] == 1.0 and run.history[-1]["cross_entropy"] < 0.2
    opened = pvae.open_run(tmp_path / "run")
    assert pvae.evaluate.accuracy(opened, data).value == 1.0


def test_samples_and_reconstructions_take_a_class():
    model = labelled_vae()
    y = torch.tensor([0, 1]).repeat_interleave(2000)
    drawn = model.sample(4000, y=y)
    assert drawn.shape == (4000, 1)
    for label, (shift, slope, scale) in enumerate([(-1.0, 1.0, 0.5), (1.0, -0.5, 0.7)]):
        own = drawn[y == label, 0]
        assert abs(own.mean() - shift) < 4.5 * own.std() / 2000**0.5
        assert abs(own.var() / (slope**2 + scale**2) - 1) < 4.5 * (2 / 2000) ** 0.5
    x = torch.full((2, 1), 0.4, dtype=DOUBLE)
    posterior = model.encode(x, model.code(torch.tensor([0, 1]))).mean[:, 0]
    expected = torch.tensor([-1.0, 1.0], dtype=DOUBLE) + torch.tensor([1.0, -0.5], dtype=DOUBLE) * posterior
    torch.testing.assert_close(model.reconstruct(x, torch.tensor([0, 1]))[:, 0], expected)
    torch.testing.assert_close(model.reconstruct(x)[0, 0], expected[1])  # the more probable class
    with pytest.raises(pvae.InputError, match="from 0 to 1"):
        model.sample(2, y=torch.tensor([0, 2]))


# ---- M1 + M2


def test_codes_of_one_model_are_the_data_of_the_next():
    fields = {"x": torch.rand(40, 6), "y": torch.arange(40) % 2}
    data = pvae.load_data(fields, validation=8, test=8, labels=4, binarise="dynamic")
    first = pvae.VAE(6, latent=3, hidden=4)
    codes = codes_of(first, data, chunk=7)
    assert codes.data_shape == (3,) and codes.binarise == "none" and codes.labels == 4
    torch.testing.assert_close(codes.test.x, first.encode(data.test.x).mean.detach())
    assert set(codes.train.names) == {"x", "y"} and torch.equal(codes.train.y, data.train.y)
    run = pvae.fit(small(3), codes, epochs=1, batch_size=8, **QUICK)
    assert run.config["data"]["name"] == "codes of the data"
    again = codes_of(pvae.VAE(6, latent=3, hidden=4), data)
    assert again.checksum != codes.checksum
    with pytest.raises(pvae.InputError, match="Name the latent site"):
        codes_of(first, data, site="w")
