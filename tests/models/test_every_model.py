"""Contracts that every model of the table keeps: sites, scores, groups, copies, and the same training by any route."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from pyro import poutine
from torch import nn
from zoo import MODELS

import pvae
from pvae.models import find_groups, scope
from pvae.models.build import spec_of
from pvae.programs.binding import bind
from pvae.programs.data_sites import find_data_sites
from pvae.programs.sites import sample_sites

SIZE = 8


pytestmark = pytest.mark.usefixtures("own_store", "seeded")


@pytest.fixture(autouse=True)
def _ignored_warnings():
    with warnings.catch_warnings():
        # each model's own tests look at these: particles one by one, steps that cannot be traced
        warnings.simplefilter("ignore", UserWarning)
        yield


def traces(model, batch):
    """Traces of guide and model at the guide's draws, with their scores."""
    programs = bind(model, batch)
    arguments = programs.arguments(batch)
    with scope(model):
        guide = poutine.trace(programs.guide).get_trace(*arguments)
        joint = poutine.trace(poutine.replay(programs.model, trace=guide)).get_trace(*arguments)
    guide.compute_log_prob(), joint.compute_log_prob()
    return joint, guide


def made(name, dtype=None):
    """A model that has seen data, and a batch."""
    case = MODELS[name]
    model, batch = case.make(), case.batch(SIZE)
    if hasattr(model, "initialise_from"):
        model.initialise_from(batch)
    return model, batch


def fit(name, model, **options):
    settings = {"epochs": 2, "batch_size": 4, "progress": False, "seed": 3, "precision": precision(name)}
    batch = MODELS[name].batch(SIZE)
    data = pvae.load_data({each: batch[each] for each in batch}, validation=0, test=0, binarise="none")
    return pvae.fit(model, data, objective=MODELS[name].objective, **{**settings, **options})


def precision(name):
    return "float64" if MODELS[name].exact else "float32"


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("name", MODELS)
def test_sites_are_those_of_the_table(name):
    model, batch = made(name)
    joint, guide = traces(model, batch)
    latent = {each["name"]: tuple(each["fn"].event_shape) for each in sample_sites(guide) if not each["is_observed"]}
    assert latent == MODELS[name].latent_sites
    seen = [each for each in sample_sites(joint) if each["is_observed"]]
    assert MODELS[name].data_shape in [tuple(each["fn"].event_shape) for each in seen]
    assert all(each["fn"].batch_shape[-1:] == (SIZE,) for each in sample_sites(joint))


@pytest.mark.parametrize("name", MODELS)
def test_what_the_model_samples_is_what_it_scores(name):
    """x drawn from the model, put back as data at the same z, has the score that it was drawn with."""
    model, batch = made(name)
    programs = bind(model, batch)
    _, guide = traces(model, batch)
    with scope(model):
        free_of_data = poutine.uncondition(programs.model)
        start = free_of_data if MODELS[name].generates else poutine.replay(free_of_data, trace=guide)
        drawn = poutine.trace(start).get_trace(*programs.arguments(batch))
        sites = observed_x(model, batch)
        x = sites.joined({name: drawn.nodes[name]["value"].detach() for name in sites.names}, batch)
        again = batch.replace(x=x.to(batch.x.dtype))
        held = poutine.condition(programs.model, data={key: drawn.nodes[key]["value"] for key in free(drawn, sites)})
        scored = poutine.trace(held).get_trace(*programs.arguments(again))
    drawn.compute_log_prob(), scored.compute_log_prob()
    for name in sites.names:
        torch.testing.assert_close(scored.nodes[name]["log_prob"], drawn.nodes[name]["log_prob"])


def free(trace, sites):
    return [each["name"] for each in sample_sites(trace) if each["name"] not in sites.names]


def observed_x(model, batch):
    """The sites that score x: one of all of it, or one of each part."""
    programs = bind(model, batch)
    with scope(model):
        bound = programs.bound_to(batch)
        return find_data_sites(sample_sites(bound.trace_both()[1]), programs, bound)


@pytest.mark.parametrize("name", [name for name in MODELS if hasattr(MODELS[name].make(), "theta")])
def test_theta_and_phi_are_disjoint_and_all(name):
    model, batch = made(name)
    try:
        theta, phi = model.theta(), model.phi()
    except pvae.InputError:
        pytest.skip("this model declares no groups: they are found from a batch")
    held = [id(each) for each in (*theta, *phi, *getattr(model, "critic", list)())]
    assert len(held) == len(set(held))
    assert set(held) == {id(each) for each in model.parameters()}
    found = find_groups(model, [batch])
    assert {id(each) for each in found.theta.values()} <= {id(each) for each in theta}
    assert {id(each) for each in found.phi.values()} <= {id(each) for each in phi}


@pytest.mark.parametrize("name", MODELS)
def test_copies_and_loaded_states_score_alike(name):
    model, batch = made(name)
    other = MODELS[name].make()
    other.load_state_dict(model.state_dict())
    for twin in (copy.deepcopy(model), other):
        scores = []
        for each in (model, twin):
            each.eval()
            torch.manual_seed(1)
            joint, guide = traces(each, batch)
            scores.append(joint.log_prob_sum() - guide.log_prob_sum())
        assert torch.equal(*scores)


@pytest.mark.parametrize("name", MODELS)
def test_training_moves_parameters_and_a_graph_is_the_eager_step(name):
    """Training by a graph and eagerly: the same bits, and other ones than at the start."""
    first, second = made(name)[0], made(name)[0]
    second.load_state_dict(first.state_dict())
    before = state(first)
    run = fit(name, first, step="graph")
    assert run.step == ("graph" if MODELS[name].traced else "eager")
    fit(name, second, step="eager")
    assert_same(state(first), state(second))
    trained = {key for key, each in first.named_parameters() if each.requires_grad}
    still = {key for key in trained if torch.equal(first.state_dict()[key], before[key])}
    assert len(still) < len(trained)


#: The models of which a training by a graph is resumed. The others step eagerly, which by the test above is the same.
RESUMED_IN_A_GRAPH = ("vae", "vae-flows", "ssvae-sampled", "vqvae-average", "tutorial")


@pytest.mark.parametrize("name", MODELS)
def test_a_resumed_training_has_the_same_bits(name, tmp_path):
    step = "graph" if name in RESUMED_IN_A_GRAPH else "eager"
    first, second = made(name)[0], made(name)[0]
    second.load_state_dict(first.state_dict())
    third = copy.deepcopy(second)
    fit(name, first, epochs=3, step=step)
    fit(name, second, epochs=1, step=step, out=tmp_path / "run")
    fit(name, third, epochs=3, step=step, out=tmp_path / "run", resume=True)
    assert_same(state(first), state(third))


def test_the_models_resumed_in_a_graph_exist():
    assert set(RESUMED_IN_A_GRAPH) < {name for name, case in MODELS.items() if case.traced}


@pytest.mark.parametrize("name", MODELS)
def test_models_of_the_package_know_how_to_be_built_again(name):
    """The arguments that a model was made with make it again, in another process too."""
    model, batch = made(name)
    if not type(model).__module__.startswith("pvae."):
        pytest.skip("a user's model")
    spec = spec_of(model)
    if spec is None:
        pytest.skip("made with modules, which have no text")
    again = spec.build(pvae.load_data({"x": batch.x}, validation=0, test=0))
    assert {key: each.shape for key, each in again.state_dict().items()} == {
        key: each.shape for key, each in model.state_dict().items()
    }


@pytest.mark.parametrize("name", [name for name, case in MODELS.items() if not case.exact])
def test_float64_reaches_every_tensor(name):
    model, _ = made(name)
    fit(name, model, precision="float64", epochs=1, step="eager")
    floating = [each for each in model.state_dict().values() if each.is_floating_point()]
    assert {each.dtype for each in floating} == {torch.float64}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", MODELS)
def test_models_move_to_the_device(name):
    model, batch = made(name)
    if not isinstance(model, nn.Module):
        pytest.skip("not a module")
    joint, _ = traces(model.to("cuda"), batch.to("cuda"))
    assert all(each["value"].device.type == "cuda" for each in sample_sites(joint))
