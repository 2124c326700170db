"""Programs get the fields that their signatures name, and a field is never dropped in silence."""

from __future__ import annotations

import functools
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import config_enumerate
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from pvae import InputError, LatentModel, pair
from pvae.models import bind, find_groups, scope
from pvae.objectives import IWAE

BATCH = {name: torch.full((2,), float(place)) for place, name in enumerate(("x", "y", "c", "index"))}


def seen_by(model: Any, guide: Any = None, batch: Any = BATCH, **options: Any) -> tuple[list[Any], tuple[str, ...]]:
    """What the model is called with, as numbers, and the fields of the pair."""
    calls: list[Any] = []
    latent_model = pair(model(calls), guide(calls) if guide else (lambda: None))
    programs = bind(latent_model, batch, **options)
    programs.model(*programs.arguments(batch))
    return calls, programs.fields


def keep(calls: list[Any], *values: Any) -> None:
    calls.append([None if each is None else each[0].item() for each in values])


def named(calls: list[Any]) -> Any:
    return lambda x, c: keep(calls, x, c)


def reversed_names(calls: list[Any]) -> Any:
    return lambda y, x: keep(calls, y, x)


def optional(calls: list[Any]) -> Any:
    return lambda x, y=None, mask=None: keep(calls, x, y, mask)


def plural(calls: list[Any]) -> Any:
    return lambda xs, ys=None: keep(calls, xs, ys)


def other_first(calls: list[Any]) -> Any:
    return lambda images: keep(calls, images)


def keyword_only(calls: list[Any]) -> Any:
    def program(x: Tensor, *, c: Tensor) -> None:
        keep(calls, x, c)

    return program


def partial(calls: list[Any]) -> Any:
    return functools.partial(lambda depth, x: keep(calls, x, torch.tensor([depth])), 9.0)


def decorated(calls: list[Any]) -> Any:
    @functools.wraps(named(calls))
    def program(*args: Any, **kwargs: Any) -> None:
        named(calls)(*args, **kwargs)

    def model(x: Tensor, c: Tensor) -> None:
        keep(calls, x, c)

    @functools.wraps(model)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        model(*args, **kwargs)

    return wrapped


def handled(calls: list[Any]) -> Any:
    return pyro.poutine.scale(config_enumerate(named(calls)), scale=1.0)


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (named, [0.0, 2.0]),
        (reversed_names, [1.0, 0.0]),
        (optional, [0.0, 1.0, None]),
        (plural, [0.0, 1.0]),
        (other_first, [0.0]),
        (keyword_only, [0.0, 2.0]),
        (partial, [0.0, 9.0]),
        (decorated, [0.0, 2.0]),
        (handled, [0.0, 2.0]),
    ],
)
def test_fields_go_by_name(model: Any, values: list[Any]) -> None:
    assert seen_by(model)[0] == [values]


def test_fields_by_position_and_by_mapping() -> None:
    open_program = lambda calls: lambda *args: keep(calls, *args)
    assert seen_by(open_program, fields=("c", "x"))[0] == [[2.0, 0.0]]
    assert seen_by(named, fields={"x": "y", "c": "x"})[0] == [[1.0, 0.0]]


def test_a_partial_mapping_keeps_the_fields_of_the_other_names() -> None:
    assert seen_by(named, fields={"x": "y"})[0] == [[1.0, 2.0]]
    assert seen_by(other_first, fields={})[0] == [[0.0]]
    renamed = lambda calls: lambda images, y, *, c=None: keep(calls, images, y, c)
    assert seen_by(renamed, fields={"images": "x"})[0] == [[0.0, 1.0, 2.0]]
    assert seen_by(renamed, fields={"y": "c"})[0] == [[0.0, 2.0, 2.0]]


def test_both_programs_share_arguments_and_pick_their_own() -> None:
    calls: list[Any] = []
    latent_model = pair(lambda x, y: keep(calls, x, y), lambda y, c: keep(calls, y, c))
    programs = bind(latent_model, BATCH)
    assert programs.fields == ("x", "y", "c")
    arguments = programs.arguments(BATCH)
    programs.model(*arguments)
    programs.guide(*arguments)
    assert calls == [[0.0, 1.0], [1.0, 2.0]]


def test_unused_fields_are_named_and_index_is_not() -> None:
    programs = bind(pair(lambda x: None, lambda x: None), BATCH)
    assert programs.unused(BATCH) == ("y", "c")


def test_an_autoguide_takes_its_models_signature() -> None:
    def model(x: Tensor, c: Tensor) -> None:
        pyro.sample("z", dist.Normal(c.mean(), 1.0))

    latent_model = pair(model, AutoNormal(model))
    with scope(latent_model):
        programs = bind(latent_model, BATCH)
        assert programs.fields == ("x", "c")
        assert set(programs.guide(*programs.arguments(BATCH))) == {"z"}


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (lambda x, lengths: None, {}, ["lengths", "x, y, c"]),
        (lambda *args: None, {}, ["*args", "fields="]),
        (lambda x: None, {"fields": ("z",)}, ["'z'", "x, y, c"]),
        (lambda x, lengths: None, {"fields": {"x": "x"}}, ["lengths", "x, y, c"]),
        (lambda image: None, {"fields": {"imaeg": "x"}}, ["'imaeg'", "'image'"]),
    ],
)
def test_what_cannot_be_bound_is_one_clear_line(model: Any, options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        bind(pair(model, lambda x: None), BATCH, **options)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_a_latent_model_needs_both_programs() -> None:
    class Half:
        def model(self, x: Tensor) -> None: ...

    with pytest.raises(InputError, match="guide"):
        bind(Half(), BATCH)


# ---- groups


class Grouped(LatentModel):
    """Parameters of every kind, so that each must land in its group."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("theta_x", "phi_drawn", "phi_density", "shared", "unused"):
            setattr(self, name, torch.nn.Parameter(torch.tensor(0.3)))
        self.frozen = torch.nn.Parameter(torch.tensor(0.3), requires_grad=False)
        self.labelled_only = torch.nn.Parameter(torch.tensor(0.3))

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            d = pyro.sample("d", dist.Normal(0.0, 1.0))
            z = pyro.sample("z", dist.Normal(self.shared, 1.0))
            pyro.sample("x", dist.Normal(z * self.theta_x + d + self.frozen, 1.0), obs=x)
            if y is not None:
                pyro.sample("y", dist.Normal(self.labelled_only, 1.0), obs=y)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("d", dist.Delta(x * self.phi_drawn))
            pyro.sample("z", dist.Normal(self.shared, self.phi_density.exp()))


def test_groups_are_found_by_differentiating() -> None:
    groups = find_groups(Grouped(), [{"x": BATCH["x"]}, {"x": BATCH["x"], "y": BATCH["y"]}])
    assert set(groups.theta) == {"theta_x", "labelled_only"}
    assert set(groups.phi) == {"phi_drawn", "phi_density"}
    assert set(groups.both) == {"shared"}
    assert set(groups.neither) == {"unused"}


def test_one_kind_of_batch_does_not_show_every_parameter() -> None:
    assert "labelled_only" in find_groups(Grouped(), [{"x": BATCH["x"]}]).neither


def test_finding_groups_leaves_random_state_and_store() -> None:
    state = torch.get_rng_state()
    find_groups(Grouped(), [{"x": BATCH["x"]}])
    assert torch.equal(torch.get_rng_state(), state)
    assert not pyro.get_param_store()


def test_global_parameters_are_grouped_too() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z * pyro.param("w", torch.tensor(1.0)), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        scale = pyro.param("s", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, scale))

    groups = find_groups(pair(model, guide), [{"x": BATCH["x"]}])
    assert (set(groups.theta), set(groups.phi)) == ({"w"}, {"s"})


def test_undeclared_groups_say_how_to_declare_them() -> None:
    with pytest.raises(InputError, match=r"Override theta\(\) and phi\(\)"):
        Grouped().theta()


def test_an_objective_over_bound_methods_has_all_parameters() -> None:
    model = Grouped()
    module = IWAE(2)(model.model, model.guide)
    assert {id(each) for each in module.parameters()} == {id(each) for each in model.parameters()}
