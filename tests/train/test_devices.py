"""Devices and precisions: refusals, random generators of accelerators, sums without 64-bit numbers, captured steps."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from models import Plain, data

import pvae
from pvae.errors import InputError
from pvae.train.devices import float32_products, isolated, reseed, resolve
from pvae.train.progress_state import ProgressState

SMALL = {"epochs": 3, "batch_size": 4, "progress": False, "seed": 3, "validation_particles": 5}


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("cuda:7", r"device='cuda:7' needs a CUDA device; this machine has \d"),
        ("xpu:7", r"device='xpu:7' needs an Intel device; this machine has \d"),
        ("mps:7", r"device='mps:7' needs an Apple device; this machine has \d"),
        ("meta", "Unknown device 'meta'; use auto, cpu, cuda, cuda:0, xpu or mps"),
        ("gpu", "Unknown device 'gpu'"),
    ],
)
def test_a_device_that_is_absent_is_refused_in_one_line(device, said):
    with pytest.raises(InputError, match=said) as caught:
        resolve(device)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": "tf32"}, "precision='tf32' needs a CUDA device; the device is cpu"),
        ({"step": "capture"}, "step='capture' needs a CUDA device"),
        ({"precision": "float16"}, "float16"),
    ],
)
def test_arithmetic_that_a_device_does_not_have_is_refused(tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        pvae.fit("vae:latent=2:hidden=4", torch.eye(6), device="cpu", out=tmp_path / "x", **SMALL, **options)
    assert not (tmp_path / "x").exists()


def test_mixtures_refuse_a_device_without_64_bit_numbers():
    with pytest.raises(InputError, match="EM adds in 64-bit numbers"):
        pvae.GaussianMixture(2, device="mps").fit(torch.randn(20, 2))


class _Accelerator(SimpleNamespace):
    """The functions of ``torch.xpu`` for two devices of which the generators are numbers."""

    def __init__(self):
        super().__init__(states=[torch.tensor([1]), torch.tensor([2])])

    def is_available(self):
        return True

    def is_initialized(self):
        return True

    def device_count(self):
        return 2

    def get_rng_state_all(self):
        return [state.clone() for state in self.states]

    def set_rng_state_all(self, states):
        self.states = [state.clone() for state in states]

    def manual_seed_all(self, seed):
        self.states = [torch.tensor([seed]), torch.tensor([seed])]


def test_generators_of_an_accelerator_are_seeded_and_restored(monkeypatch):
    xpu = _Accelerator()
    modules = {"xpu": xpu, "cuda": SimpleNamespace(is_initialized=lambda: False, is_available=lambda: False)}
    monkeypatch.setattr("pvae.accelerators._module", modules.__getitem__)
    assert resolve("xpu:1") == torch.device("xpu:1")
    with isolated(7):
        assert [int(state) for state in xpu.states] == [7, 7]
        kept = pvae.train.devices.capture_generators()
        assert {"xpu.0", "xpu.1"} <= kept.keys() and not any(name.startswith("cuda") for name in kept)
        reseed(7, 3)
        assert int(xpu.states[0]) != 7
        pvae.train.devices.restore_generators(kept)
        assert [int(state) for state in xpu.states] == [7, 7]
    assert [int(state) for state in xpu.states] == [1, 2]


def test_tf32_is_set_for_a_block_alone():
    assert torch.get_float32_matmul_precision() == "highest"
    with float32_products("tf32"):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == "highest"
    with float32_products("float32"):
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == "highest"


def test_bfloat16_rounds_the_products_of_a_step_and_keeps_float32_parameters():
    make = {"objective": "elbo", "device": "cpu", "step": "eager", **SMALL}
    x = data(12).x
    torch.manual_seed(0)
    model = Plain()
    runs = {
        name: pvae.fit(copy.deepcopy(model), pvae.load_data(x, validation=0, test=0), precision=name, **make)
        for name in ("float32", "bfloat16")
    }
    losses = {name: run.history[-1]["loss"] for name, run in runs.items()}
    assert all(parameter.dtype == torch.float32 for parameter in runs["bfloat16"].model.parameters())
    # bfloat16 has 8 bits of mantissa: the loss differs, and by less than a few units of the last of them.
    assert 0 < abs(losses["bfloat16"] / losses["float32"] - 1) < 8 * 2**-8


@pytest.mark.parametrize("most", [1, 2, 100])
def test_sums_of_an_epoch_are_the_same_if_the_device_has_no_64_bit_numbers(monkeypatch, most):
    numbers = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    states = []
    for place in ("cpu", "meta"):  # sums that are elsewhere than the numbers make the numbers wait
        monkeypatch.setattr("pvae.train.progress_state._MOST_WAITING", most)
        state = ProgressState()
        for step, (loss, kl) in enumerate(numbers):
            if place == "meta" and not step:
                state._names, state._totals = ("loss", "kl"), [_Elsewhere(), _Elsewhere()]
            state.add_step(("loss", "kl"), (loss, kl), 3 + step % 2)
        states.append(state.means())
    assert states[0] == pytest.approx(states[1], rel=1e-12)


class _Elsewhere:
    """A sum on another device than the numbers."""

    device = "elsewhere"

    def __init__(self):
        self.total = torch.zeros((), dtype=torch.float64)

    def add_(self, addend):
        self.total.add_(addend)

    def __float__(self):
        return float(self.total)


def _recorded_on_cpu(run, inputs):
    """Stand in for CUDA: a replay computes from the memory of the inputs, and writes into that of the outputs."""
    for _ in range(3):
        run(*inputs)
    outputs = run(*inputs)

    def replay():
        for place, output in zip(outputs, run(*inputs), strict=True):
            if place is not None:
                place.copy_(output)

    return replay, outputs


def _as_if_on_cuda(monkeypatch, record):
    monkeypatch.setattr("pvae.train.options._check_capture", lambda step, kind: None)
    monkeypatch.setattr("pvae.train.graph.captured_graph.record", record)


@pytest.mark.parametrize("objective", ["elbo", "alternate:phi_steps=3", "rws:particles=3"])
def test_a_captured_step_has_the_bits_of_the_graph(monkeypatch, objective):
    splits = pvae.load_data(data(14).x, validation=0, test=0)  # the last batch of an epoch is smaller
    torch.manual_seed(0)
    model = Plain(dropout=0.2, norm=objective == "elbo")
    options = {"objective": objective, "device": "cpu", "matmul": "aten", **SMALL}
    graph = pvae.fit(copy.deepcopy(model), splits, step="graph", **options)
    records = []

    def counted(run, inputs):
        records.append(len(inputs[0]))
        return _recorded_on_cpu(run, inputs)

    _as_if_on_cuda(monkeypatch, counted)
    captured = pvae.fit(copy.deepcopy(model), splits, step="capture", **options)
    assert {4, 2} == set(records)
    for ours, theirs in zip(captured.history, graph.history, strict=True):
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
    for (name, ours), theirs in zip(
        captured.model.state_dict().items(), graph.model.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_a_capture_that_computes_other_numbers_is_not_used(monkeypatch):
    def wrong(run, inputs):
        frozen = [value.clone() for value in inputs]  # the replay does not see the next batch
        inputs[0].zero_()
        replay, outputs = _recorded_on_cpu(run, frozen)
        return replay, tuple(None if output is None else output + 1 for output in outputs)

    _as_if_on_cuda(monkeypatch, wrong)
    splits = pvae.load_data(data(12).x, validation=0, test=0)
    with pytest.warns(UserWarning, match="runs as a graph, not as one CUDA graph: its loss differs"):
        run = pvae.fit(Plain(), splits, objective="elbo", device="cpu", step="capture", **SMALL)
    assert run.step == "graph"
