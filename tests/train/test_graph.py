"""A graph freezes nothing that changes: neither what depends on a batch nor what programs read from Python."""

from __future__ import annotations

import ctypes
import inspect
import itertools
import linecache
import math
import multiprocessing
import operator
import re
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas
import pyro
import pyro.distributions as dist
import pytest
import torch
from models import FEATURES, Plain, data
from pyro.infer import Trace_ELBO
from stepping import stepper
from torch import Tensor, nn
from torch.utils.dlpack import from_dlpack, to_dlpack

import pvae
from pvae.batch import Batch
from pvae.objectives.pyro.patches import ValueReadError, values_refused
from pvae.train.computation import Computation
from pvae.train.devices import isolated
from pvae.train.graph.dynamic_shapes import DynamicShapeError
from pvae.train.graph.refusal import describe_failure
from pvae.train.graph.trace import trace

#: Functions of a batch that return a number which depends on its content. Each leaves the tensor by another door.
DOORS: dict[str, Callable[[Tensor], Any]] = {
    "mask": lambda x: x[x > 0].shape[0],
    "nonzero": lambda x: x.nonzero().shape[0],
    "masked_select": lambda x: x.masked_select(x > 0).shape[0],
    "where": lambda x: torch.where(x > 0)[0].shape[0],
    "unique": lambda x: x.sum(-1).unique().shape[0],
    "repeat_interleave": lambda x: torch.repeat_interleave(x.flatten().long()).shape[0],
    "bincount": lambda x: torch.bincount(x.sum(-1).long()).shape[0],
    "sparse": lambda x: x.to_sparse().values().shape[0],
    "packed": lambda x: nn.utils.rnn.pack_padded_sequence(
        x[:, :, None], 1 + x.sum(-1).long().clamp(max=4), batch_first=True, enforce_sorted=False
    ).data.shape[0],
    "tensor_split": lambda x: torch.tensor_split(x.flatten(), x.sum().long()[None])[0].shape[0],
    "numpy": lambda x: float(x.numpy().sum()),
    "array": lambda x: float(np.asarray(x).sum()),
    "tolist": lambda x: sum(x.flatten().tolist()),
    "dlpack": lambda x: float(np.from_dlpack(x).sum()),
    "storage": lambda x: sum(x.untyped_storage().tolist()[2::4]),
    "pointer": lambda x: ctypes.c_float.from_address(x.data_ptr()).value,
    "text": lambda x: repr(x).count("1."),
    "apply_": lambda x: x.clone().apply_(lambda value: 2 * value).sum(),
    "float": lambda x: float(x.sum()),
    "index": lambda x: range(9)[x.sum(-1).long()[0]],
    "equal": lambda x: 2.0 if torch.equal(x, x.flip(0)) else 1.0,
    "list": lambda x: torch.tensor([x.sum(), 1.0])[0],
    "as_tensor": lambda x: torch.as_tensor((x.sum(),))[0],
    "new_tensor": lambda x: x.new_tensor([[x.sum()]]).sum(),
}


class Scaled(Plain):
    """Multiplies the input of the encoder by a number from a function of the batch."""

    def __init__(self, number: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.number = number

    def guide(self, x: Tensor) -> None:
        number = self.number(x)
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x * 0.1 * number).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def _batches(count: int) -> list[Batch]:
    """Batches of other content, alternately of 8 and 5 data."""
    generator = torch.Generator().manual_seed(2)
    return [
        Batch(x=(torch.rand(5 if number % 2 else 8, FEATURES, generator=generator) < 0.2 + 0.1 * number).float())
        for number in range(count)
    ]


def _trained(make: Callable[[], Any], *, graph: bool, steps: int = 6) -> tuple[Tensor, dict[str, Tensor], Tensor, Any]:
    """Return losses, parameters, the next draw, and the stepper, after steps on batches of other content."""
    with isolated(3):
        latent_model = make()
    batches = _batches(steps)
    with stepper(latent_model, Trace_ELBO(), graph=graph, batch=data()) as (step, _), isolated(4):
        losses = torch.stack([step(batch)[0] for batch in batches])
        return losses, dict(latent_model.named_parameters()), torch.rand(2), step


def _assert_trains_as_eagerly(make: Callable[[], Any], reason: str) -> None:
    with pytest.warns(UserWarning, match=reason) as caught:
        graph = _trained(make, graph=True)
    assert len(caught) == 1 and not graph[3].graph
    eager = _trained(make, graph=False)
    assert torch.equal(graph[0], eager[0]) and torch.equal(graph[2], eager[2])
    assert all(torch.equal(graph[1][name], eager[1][name]) for name in eager[1])


@pytest.mark.parametrize("door", DOORS)
def test_no_number_of_the_batch_leaves_a_trace(door: str) -> None:
    x = data().x
    assert torch.isfinite(torch.as_tensor(DOORS[door](x)))
    with pytest.raises((ValueReadError, DynamicShapeError, RuntimeError)) as caught:
        trace(lambda x: ((x * DOORS[door](x)).sum(),), (x,))
    line = inspect.getsourcelines(DOORS[door])[1]
    reason = describe_failure(caught.value)
    assert re.search(rf"test_graph\.py:({line}|{line + 1}): .*graph would freeze", reason), reason


@pytest.mark.parametrize("door", ["mask", "tolist"])
def test_a_number_of_the_batch_is_the_same_as_eagerly(door: str) -> None:
    _assert_trains_as_eagerly(lambda: Scaled(DOORS[door]), r"test_graph\.py:\d+: .*graph would freeze")


def test_a_leak_that_the_trace_does_not_see_is_found_before_it_updates() -> None:
    """A reference to a function of torch that was taken before the trace cannot be replaced."""

    def first_sum(x: Tensor) -> Tensor:
        return from_dlpack(to_dlpack(x.detach().clone())).sum()

    _assert_trains_as_eagerly(
        lambda: Scaled(first_sum), r"differs from the eager step's on another batch \(model at .*py"
    )


class Selecting(Scaled):
    """Reads some features only, those of a mask of its own, and their number."""

    def __init__(self) -> None:
        super().__init__(lambda x: x[:, self.seen].sum(-1, keepdim=True) / x[:, self.seen].shape[1])
        self.register_buffer("seen", torch.tensor([True] * 3 + [False] * 3))


def losses_around_a_change(latent_model: Any, change: Callable[[], object], *, graph: bool) -> Tensor:
    """Return the losses of four steps before a change and of four after it; there is no warning."""
    batches = _batches(8)
    with (
        warnings.catch_warnings(),
        stepper(latent_model, Trace_ELBO(), graph=graph, batch=data()) as (step, _),
        isolated(4),
    ):
        warnings.simplefilter("error")
        before = [step(batch)[0] for batch in batches[:4]]
        change()
        step.refresh()
        losses = torch.stack([*before, *(step(batch)[0] for batch in batches[4:])])
        assert step.graph is graph
    return losses


def test_a_mask_of_the_model_stays_in_the_graph_until_it_changes() -> None:
    losses = {}
    for graph in (True, False):
        with isolated(3):
            latent_model = Selecting()
        change = partial(latent_model.seen.copy_, torch.tensor([False] * 2 + [True] * 4))
        losses[graph] = losses_around_a_change(latent_model, change, graph=graph)
    assert torch.equal(losses[True], losses[False])


def test_a_number_of_a_constant_tensor_stays_in_the_graph_until_it_changes() -> None:
    losses = {}
    for graph in (True, False):
        factor = torch.tensor(1.0)
        with isolated(3):
            latent_model = Scaled(lambda x, factor=factor: float(factor))  # type: ignore[misc]
        losses[graph] = losses_around_a_change(latent_model, partial(factor.fill_, 3.0), graph=graph)
    assert torch.equal(losses[True], losses[False])


def test_a_graph_that_fails_is_replaced_by_the_eager_step_on_the_same_draws() -> None:
    losses = {}
    for graph in (True, False):
        with isolated(3):
            latent_model = Selecting()
        batches = _batches(8)
        with stepper(latent_model, Trace_ELBO(), graph=graph, batch=data()) as (step, _), isolated(4):
            before = [step(batch)[0] for batch in batches[:4]]
            plan = step._plans.plan("all", (batches[4].x,)) if graph else None
            if plan is not None:
                object.__setattr__(plan.graph, "run", _failing(plan.graph.run))
                with pytest.warns(UserWarning, match="ZeroDivisionError"):
                    after = [step(batches[4])[0]]
            else:
                after = [step(batches[4])[0]]
            losses[graph] = torch.stack([*before, *after, *(step(batch)[0] for batch in batches[5:])])
            assert not step.graph
    assert torch.equal(losses[True], losses[False])


def _failing(run: Callable[..., Any]) -> Callable[..., Any]:
    def fail(*arguments: Tensor) -> Any:
        run(*arguments)  # the generators have moved when it fails
        raise ZeroDivisionError

    return fail


COUNT = 0


def _count_globally(x: Tensor) -> int:
    global COUNT
    COUNT += 1
    return COUNT


def _counts_in_a_closure() -> Callable[[Tensor], int]:
    count = 0

    def number(x: Tensor) -> int:
        nonlocal count
        count += 1
        return count

    return number


def _counts_in_a_list() -> Callable[[Tensor], int]:
    seen: list[int] = []

    def number(x: Tensor) -> int:
        seen.append(len(x))
        return len(seen)

    return number


class _Counter:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, x: Tensor) -> int:
        self.count += 1
        return 1 + self.count // 4  # the first steps show no difference


class _Noise:
    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)

    def __call__(self, x: Tensor) -> float:
        return float(self.generator.random())


class _Carried:
    """Keeps a tensor from one step to the next."""

    last: Any = 1.0

    def __call__(self, x: Tensor) -> Any:
        number, self.last = self.last, x.mean()
        return number


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: _count_globally, r"changes test_graph\.COUNT"),
        (_counts_in_a_closure, "changes a variable around"),
        (_counts_in_a_list, "changes a variable around"),
        (_Counter, r"changes _Counter\.count"),
        (_Noise, r"changes _Noise\.generator"),
        (_Carried, "a value that the run before it has changed"),
    ],
    ids=["global", "closure", "list", "object", "numpy generator", "tensor"],
)
def test_a_value_that_each_run_changes_is_not_frozen(make: Callable[[], Any], reason: str) -> None:
    global COUNT

    def scaled() -> Scaled:
        global COUNT
        COUNT = 0
        return Scaled(make())

    _assert_trains_as_eagerly(scaled, reason)


def test_a_clock_or_an_iterator_is_refused_without_a_run() -> None:
    with pytest.warns(UserWarning, match="read the clock"):
        _trained(lambda: Scaled(lambda x: 2.0 if time.time() < 0 else 1.0), graph=True, steps=1)
    numbers = itertools.count(1)
    with pytest.warns(UserWarning, match="iterator"):
        losses = _trained(lambda: Scaled(lambda x: next(numbers)), graph=True, steps=3)[0]
    numbers = itertools.count(1)
    assert torch.equal(losses, _trained(lambda: Scaled(lambda x: next(numbers)), graph=False, steps=3)[0])


def test_a_cache_and_a_tensor_that_a_run_leaves_behind_stay_in_the_graph() -> None:
    class Caching(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.rows: dict[int, Tensor] = {}
            self.mean: Any = None

        def guide(self, x: Tensor) -> None:
            if len(x) not in self.rows:
                self.rows[len(x)] = torch.ones(len(x), 1)
            with pyro.plate("data", len(x)):
                self.mean, log_scale = self.encoder(x * self.rows[len(x)]).chunk(2, -1)
                pyro.sample("z", dist.Normal(self.mean, log_scale.exp()).to_event(1))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph, eager = (_trained(Caching, graph=graph) for graph in (True, False))
    assert graph[3].graph and torch.equal(graph[0], eager[0])


@dataclass(slots=True)
class _Settings:
    scale: float = 1.0


SCALE = {"now": 1.0}
SETTINGS = [_Settings()]
OFFSETS = np.zeros(2)


class Warmed(Plain):
    """Reads a temperature in several ways."""

    width = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.beta, self.use_width, self.history = 1.0, False, []

    def _weight(self) -> float:
        weight = self.beta * SCALE["now"] * SETTINGS[0].scale + float(OFFSETS[1])
        return weight * (self.width if self.use_width else 1.0)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            with pyro.poutine.scale(scale=self._weight()):
                pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    def report(self) -> int:
        return len(self.history)


def _change_one_after_the_other(record: Any, model: Warmed) -> None:
    if record["epoch"] == 1:
        model.beta = 0.5
    elif record["epoch"] == 2:
        model.use_width = True
    elif record["epoch"] == 3:
        SCALE["now"] = 4.0
    elif record["epoch"] == 4:
        type(model).width = 1.0
    elif record["epoch"] == 5:
        SETTINGS[0].scale = 0.3
    else:
        OFFSETS[1] = 2.0


def _remember(record: Any, model: Warmed) -> None:
    model.history.append(record)
    model.epoch = record["epoch"]


def _fitted(callbacks: list[Any], step: str, objective: Any = None, epochs: int = 5) -> tuple[pvae.Run, int]:
    """Return a run of some epochs, with batches of 8 and of 4, and the number of computations of an eager step."""
    SCALE["now"], Warmed.width, SETTINGS[0].scale, OFFSETS[1] = 1.0, 3.0, 1.0, 0.0
    generator = torch.Generator().manual_seed(1)
    splits = pvae.load_data({"x": torch.rand(20, FEATURES, generator=generator).round()}, validation=0, test=0)
    with isolated(3):
        latent_model = Warmed()
    count = 0
    compute = Computation.__call__

    def counted(self: Computation, *args: Any) -> Any:
        nonlocal count
        count += 1
        return compute(self, *args)

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error")
        patch.setattr(Computation, "__call__", counted)
        options = {"epochs": epochs, "batch_size": 8, "learning_rate": 0.01, "seed": 0, "progress": False}
        run = pvae.fit(latent_model, splits, objective=objective, step=step, callbacks=callbacks, **options)
    return run, count


def _losses(run: pvae.Run) -> list[float]:
    return [record["loss"] for record in run.history]


def test_what_a_callback_changes_takes_effect_at_the_next_step() -> None:
    run, _ = _fitted([_change_one_after_the_other], "auto", epochs=7)
    losses = _losses(run)
    assert run.step == "graph"
    assert losses == _losses(_fitted([_change_one_after_the_other], "eager", epochs=7)[0])
    assert min(abs(later - earlier) for earlier, later in itertools.pairwise(losses)) > 0.1


class _OfAMetaclass(type):
    number = 1.0


class _WithMetaclass(metaclass=_OfAMetaclass):
    pass


class _Number(float):
    """A number with attributes."""


class _Hidden:
    """Numbers of Python that an object keeps where its attributes do not show them; each can be read and be changed."""

    def __init__(self) -> None:
        owner, number, event, inside = _Settings(), _Number(1.0), threading.Event(), {"now": 1.0}
        number.factor = 1.0  # type: ignore[attr-defined]
        plain, named = _Place(), _Place()
        cell, shared, frame = ctypes.c_double(1.0), multiprocessing.Value("d", 1.0), pandas.Series({"now": 1.0})
        reference, proxy, by_key = weakref.ref(PLACE), weakref.proxy(PLACE), weakref.WeakKeyDictionary({PLACE: 1.0})
        view, read, name = MappingProxyType(inside), operator.attrgetter("factor"), "".join(["fac", "tor"])
        self.owner = owner
        self.reads: list[Callable[[], float]] = [
            lambda: number.factor,  # type: ignore[attr-defined]
            lambda: 2.0 if event.is_set() else 1.0,
            lambda: cell.value,
            lambda: shared.value,
            lambda: frame["now"],
            lambda: reference().factor,  # type: ignore[union-attr]
            lambda: proxy.other,
            lambda: by_key[PLACE],
            lambda: view["now"],
            lambda: read(plain),
            lambda: getattr(named, name),
            lambda: _WithMetaclass.number,
        ]
        self.changes: list[Callable[[], Any]] = [
            lambda: setattr(number, "factor", 2.0),
            event.set,
            lambda: setattr(cell, "value", 2.0),
            lambda: setattr(shared, "value", 2.0),
            lambda: frame.__setitem__("now", 2.0),
            lambda: setattr(PLACE, "factor", 2.0),
            lambda: setattr(PLACE, "other", 2.0),
            lambda: by_key.__setitem__(PLACE, 2.0),
            lambda: inside.__setitem__("now", 2.0),
            lambda: setattr(plain, "factor", 2.0),
            lambda: setattr(named, "factor", 2.0),
            lambda: setattr(_OfAMetaclass, "number", 2.0),
        ]


class _Place:
    factor = other = 1.0


PLACE = _Place()


#: The numbers that are followed; a number of another kind lets the graph be compared at each epoch.
FOLLOWED = (0, 1, 5, 7, 10, 11)


@pytest.mark.parametrize("numbers", [FOLLOWED, (2,), (3,), (4,), (6,), (8,), (9,)])
def test_a_number_that_no_attribute_shows_takes_effect(numbers: tuple[int, ...]) -> None:
    losses = {}
    for graph in (True, False):
        PLACE.__dict__.clear()
        _OfAMetaclass.number = 1.0
        hidden = _Hidden()
        reads = [hidden.reads[number] for number in numbers]
        with isolated(3):
            latent_model = Scaled(lambda x, reads=reads: math.prod(read() for read in reads))  # type: ignore[misc]
        batch = data()
        batches = (batch, batch.map(lambda tensor: 1 - tensor), batch)
        with stepper(latent_model, Trace_ELBO(), graph=graph, batch=batch) as (step, _), isolated(4):
            numbers_of_steps = [step(other)[0] for other in batches]
            for number in numbers:
                hidden.changes[number]()
                step.refresh()
                numbers_of_steps.append(step(batch)[0])
            losses[graph] = torch.stack(numbers_of_steps)
            assert step.graph is graph
    assert torch.equal(losses[True], losses[False])


def test_a_number_of_the_objective_that_a_callback_changes_takes_effect() -> None:
    class Tempered(pvae.IWAE):
        temperature = 1.0

        def surrogate(self, weights: Any) -> Tensor:
            return super().surrogate(weights) * self.temperature

    losses = {}
    for step in ("auto", "eager"):
        objective = Tempered(2)

        def cool(record: Any, model: Any, objective: Any = objective) -> None:
            objective.temperature = 0.5 ** record["epoch"]

        run, _ = _fitted([cool], step, objective)
        assert run.step == ("eager" if step == "eager" else "graph")
        losses[step] = _losses(run)
    assert losses["auto"] == losses["eager"]


def test_a_callback_that_changes_nothing_that_programs_read_costs_no_comparison() -> None:
    _, without = _fitted([], "auto", epochs=3)
    assert _fitted([lambda record, model: None, _remember], "auto")[1] == without
    assert _fitted([_change_one_after_the_other], "auto")[1] > without


def test_a_thread_that_reads_batches_gets_values_while_a_step_is_traced() -> None:
    read, index = [], torch.tensor([1, 2])

    def work() -> None:
        read.append(index.numpy().sum())
        read.append(len(torch.tensor_split(torch.zeros(4), index)))

    with values_refused():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        with pytest.raises(ValueReadError):
            index.numpy()
    assert read == [3, 3]


def test_torch_keeps_no_source_code_of_a_traced_graph() -> None:
    kept = set(linecache.cache)
    graph = trace(lambda x: (x * 2,), (torch.ones(3),))
    assert graph.run(torch.ones(3))[0].tolist() == [2, 2, 2]
    assert not {name for name in set(linecache.cache) - kept if "eval_with_key" in name}
