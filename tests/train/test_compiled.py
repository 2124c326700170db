"""Compiled steps: the update is that of torch's optimisers, a failure leads to the graph, and a choice is kept.

Most tests replace the compiler of torch by one that returns the graph which it should compile, because that takes no
time; one test compiles.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import Plain, data
from pyro.infer import Trace_ELBO
from stepping import after, assert_equal, parameters_of, stepper
from torch import Tensor
from torch.fx import GraphModule

import pvae
from pvae.callbacks import Callback
from pvae.objectives import make_objective
from pvae.products.numpy_products import multiply_by_numpy
from pvae.train.checkpoint import read
from pvae.train.compiled import compiled_step, compiled_steps
from pvae.train.compiled.compiled_steps import CompiledSteps
from pvae.train.step import Stepper

Compiler = Callable[..., Any]


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[GraphModule]:
    """Replace the compiler by one that returns its graph; the list of the graphs that it has got."""
    graphs: list[GraphModule] = []

    def compile_nothing(graph: GraphModule, inputs: list[Tensor], options: Any) -> GraphModule:
        graphs.append(graph)
        return graph

    monkeypatch.setattr("pvae.train.compiled.compiled_step.compile_graph", compile_nothing)
    return graphs


def plant(monkeypatch: pytest.MonkeyPatch, change: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]) -> None:
    """Let the compiler return a function of which the outputs are changed."""

    def compile_wrong(graph: GraphModule, inputs: list[Tensor], options: Any) -> Compiler:
        return lambda *values: change(graph(*values))

    monkeypatch.setattr("pvae.train.compiled.compiled_step.compile_graph", compile_wrong)


def train(out: Path | None = None, size: int = 13, **options: Any) -> pvae.train.Run:
    """Three epochs of a batch of 8 and, for 13 data, a last batch of 5, in float64."""
    torch.manual_seed(0)
    x = data(size).x
    usual = {"epochs": 3, "batch_size": 8, "precision": "float64", "progress": False, "step": "compile"}
    return pvae.fit(Plain(), pvae.load_data(x, validation=0, test=0), objective="iwae:particles=3", out=out,
                    **{**usual, **options})  # fmt: skip


@functools.cache
def graph_parameters() -> dict[str, Tensor]:
    """The parameters after the training by graphs."""
    return parameters_of(train(step="graph"))


def assert_close(first: dict[str, Tensor], second: dict[str, Tensor], tolerance: float = 1e-12) -> None:
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("optimiser", "options"),
    [
        ("adam", {"schedule": "exponential:gamma=0.5"}),
        ("adam:weight_decay=0.1:betas=0.8,0.9:eps=0.001", {"clip": 0.05}),
        ("adamw:weight_decay=0.2", {"learning_rate": {"theta": 0.01, "phi": 0.1}}),
        ("sgd:momentum=0.9:dampening=0.5:weight_decay=0.1", {"clip": 0.05}),
        ("sgd:momentum=0.9:nesterov=True", {}),
        ("rmsprop", {"clip": 0.05}),
    ],
)
def test_the_update_is_that_of_the_optimiser(
    optimiser: str, options: dict[str, Any], compilations: list[GraphModule]
) -> None:
    options = {"learning_rate": 0.05, "size": 13 if optimiser == "adam" else 8, **options}
    compiled = train(optimiser=optimiser, **options)
    assert compiled.step == "compile" and len(compilations) == 1
    graph = train(optimiser=optimiser, step="graph", **options)
    assert_close(parameters_of(graph), parameters_of(compiled))


@pytest.mark.parametrize(
    ("objective", "model"),
    [
        ("beta:beta=4:schedule=linear:warm-up=4", Plain),
        ("gan", Plain),
        ("elbo", lambda: Plain(dropout=0.5, norm=True)),
    ],
)
def test_objectives_with_state_players_and_draws_are_compiled(
    objective: str, model: Callable[[], Plain], compilations: list[GraphModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    def make() -> Any:
        return Trace_ELBO() if objective == "elbo" else make_objective(objective)()

    settings = {"graph": True, "steps": 6, "dtype": torch.float64}
    graph = after(model, make, **settings)
    made = Stepper.__init__

    def compiling(self: Stepper, computation: Any, optimiser: Any, **options: Any) -> None:
        made(self, computation, optimiser, **options, compiled=CompiledSteps("compile", optimiser, None), full_size=8)

    monkeypatch.setattr(Stepper, "__init__", compiling)
    compiled = after(model, make, **settings)
    assert compiled[3].how == "compile" and len(compilations) == len(compiled[3].parameters.players)
    torch.testing.assert_close(compiled[0], graph[0], rtol=1e-10, atol=1e-10)
    # the bias in front of the normalisation has a gradient of rounding errors, which Adam enlarges
    assert_close(graph[1], compiled[1], 1e-6 if objective == "elbo" else 1e-10)
    assert torch.equal(compiled[2], graph[2])


@pytest.mark.parametrize("steps", [3])
def test_a_resumed_training_has_the_same_bits(steps: int, compilations: list[GraphModule], tmp_path: Path) -> None:
    whole = parameters_of(train())
    train(tmp_path / "run", max_steps=steps)
    assert read(tmp_path / "run" / "last").state["how"] == {"asked": "compile", "used": "compile"}
    resumed = train(tmp_path / "run", resume=True)
    assert resumed.step == "compile"
    assert_equal(whole, parameters_of(resumed))


def test_the_whole_training_runs_as_a_graph_if_the_compiler_fails_and_also_after_a_break(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compilations: list[GraphModule]
) -> None:
    graph = graph_parameters()
    works = compiled_step.compile_graph

    def failing(*_: Any, **__: Any) -> None:
        raise RuntimeError("No working C++ compiler found\nfurther lines")

    monkeypatch.setattr("pvae.train.compiled.compiled_step.compile_graph", failing)
    with pytest.warns(UserWarning, match="runs as a graph: RuntimeError: No working C\\+\\+ compiler found$") as caught:
        run = train(tmp_path / "run", max_steps=4)
    assert run.step == "graph" and len([w for w in caught if "compile" in str(w.message)]) == 1
    monkeypatch.setattr("pvae.train.compiled.compiled_step.compile_graph", works)
    resumed = train(tmp_path / "run", resume=True)
    assert resumed.step == "graph" and not compilations
    assert_equal(graph, parameters_of(resumed))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda outputs: (outputs[0] + 1e-3, *outputs[1:]), "its loss differs from that of the graph"),
        (lambda outputs: (*outputs[:-1], outputs[-1] * 1.001), "its gradient of .* differs from that of the graph"),
        (lambda outputs: (torch.rand(1), outputs)[1], "it draws other numbers than the graph"),
    ],
)
def test_a_wrong_function_is_refused_and_nothing_has_changed(
    change: Callable[..., Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_parameters()
    plant(monkeypatch, change)
    with pytest.warns(UserWarning, match=reason):
        run = train()
    assert_equal(graph, parameters_of(run))


def test_a_wrong_update_is_refused(monkeypatch: pytest.MonkeyPatch, compilations: list[GraphModule]) -> None:
    graph = graph_parameters()
    rule = compiled_steps.CompiledStep.__init__.__globals__["find_rule"](
        torch.optim.Adam([torch.zeros(1)]), torch.optim.Adam([torch.zeros(1)]).param_groups[0]
    )
    monkeypatch.setattr(type(rule), "numbers", lambda self, step: (-0.0011, 1.0, 1.0))
    with pytest.warns(UserWarning, match="updates the parameters in another way than the optimiser"):
        run = train()
    assert_equal(graph, parameters_of(run))


def test_other_settings_than_the_learning_rate_must_not_change(compilations: list[GraphModule]) -> None:
    schedule = "onecycle:max_lr=0.1:total_steps=9"
    graph = parameters_of(train(step="graph", schedule=schedule))
    with pytest.warns(UserWarning, match="settings of the optimiser besides the learning rate change"):
        run = train(schedule=schedule)
    assert run.step == "graph"
    assert_close(graph, parameters_of(run))


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let step="auto" decide after two full batches."""
    monkeypatch.setattr(compiled_steps, "_STEPS_BEFORE_CHOICE", 4)


def line(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line that says how steps run."""
    (found,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("step: ")]
    return found


def test_auto_compiles_a_long_training_and_keeps_the_choice(
    soon: None,
    compilations: list[GraphModule],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(compiled_steps, "_MARGIN", 0.0)
    monkeypatch.setattr(compiled_steps, "median_seconds", lambda *_: (1e-3, 2e-3))
    run = train(tmp_path / "run", step="auto", progress=None, max_steps=6)
    assert run.step == "compile"
    assert line(capsys).startswith("step: compile (1.00 ms a step, and 2.00 ms as a graph; compiled in ")
    whole = parameters_of(train(step="auto"))
    monkeypatch.setattr(compiled_steps, "median_seconds", lambda *_: (2e-3, 1e-3))  # it is not timed again
    resumed = train(tmp_path / "run", step="auto", resume=True, max_steps=None)
    assert resumed.step == "compile"
    assert_equal(whole, parameters_of(resumed))


def test_auto_leaves_a_short_training_and_a_slow_function_to_the_graph(
    soon: None, compilations: list[GraphModule], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = graph_parameters()
    run = train(step="auto", progress=None)
    assert run.step == "graph" and not compilations
    assert line(capsys).startswith("step: graph, because compiling takes about ")
    assert_equal(graph, parameters_of(run))
    monkeypatch.setattr(compiled_steps, "_MARGIN", 0.0)
    monkeypatch.setattr(compiled_steps, "median_seconds", lambda *_: (2e-3, 1e-3))
    slow = train(step="auto", progress=None)
    assert slow.step == "graph" and len(compilations) == 1
    assert line(capsys).startswith("step: graph, because a compiled step is not faster (2.00 ms a step")
    assert_equal(graph, parameters_of(slow))


def test_another_way_to_run_steps_after_a_break_is_noted(
    compilations: list[GraphModule], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "run", max_steps=2)
    train(tmp_path / "run", step="graph", resume=True, progress=None)
    assert "the steps run by 'graph' from now on; they ran by 'compile' before" in capsys.readouterr().err


def test_the_compiler_of_torch_gives_the_numbers_of_the_graph_also_with_the_products_of_numpy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, ...]] = []

    def counted(a: Tensor, b: Tensor, out: Tensor) -> None:
        calls.append(tuple(out.shape))
        multiply_by_numpy(a, b, out)

    monkeypatch.setenv("PVAE_CACHE", str(tmp_path))
    monkeypatch.setattr("pvae.products.product_choices.fastest_library", lambda kind: "numpy")
    monkeypatch.setattr("pvae.products.graph_pass._FEWEST_MULTIPLICATIONS_IN_COMPILED_CODE", 0)
    monkeypatch.setattr("pvae.products.compiled_calls.multiply_by_numpy", counted)
    compiled = train(size=8, precision="float32", clip=0.3)
    if compiled.step != "compile":
        pytest.skip("the compiler of torch does not work here")
    assert len(calls) > 8  # compiled code calls the library without an operation of torch in between
    graph = train(size=8, precision="float32", clip=0.3, step="graph", matmul="aten")
    losses = [[record["loss"] for record in run.history] for run in (compiled, graph)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert_close(parameters_of(graph), parameters_of(compiled), 1e-5)


def test_a_parameter_with_another_layout_leads_to_another_compiled_step(compilations: list[GraphModule]) -> None:
    class Transpose(Callback):
        def on_epoch(self, record: Any, model: Any) -> None:
            if record["epoch"] == 2:  # the first step after it was compiled
                parameter = next(parameter for parameter in model.parameters() if parameter.dim() == 2)
                parameter.data = parameter.data.t().contiguous().t()

    graph = train(size=8, step="graph", callbacks=[Transpose()])
    run = train(size=8, callbacks=[Transpose()])
    assert run.step == "compile" and len(compilations) == 2
    assert_close(parameters_of(graph), parameters_of(run), 1e-5)


def test_a_group_without_parameters_has_none_with_a_gradient() -> None:
    with stepper(Plain(), Trace_ELBO(), graph=True, batch=data(8)) as (step, parameters):
        plan = step._plans.plan("all", (data(8).x,))
        assert plan.parameters_with_gradient() == list(parameters.named.values())
        plan.parameters = []
        assert plan.parameters_with_gradient() == []


def test_functions_around_the_step_of_the_optimiser_are_called(compilations: list[GraphModule]) -> None:
    calls: list[int] = []

    def optimiser(parameters: Any) -> torch.optim.Adam:
        made = torch.optim.Adam(parameters, lr=0.05)
        made.register_step_post_hook(lambda *_: calls.append(1))
        return made

    run = train(optimiser=optimiser)
    assert run.step == "compile" and len(calls) == 6
