"""Exported encoders, decoders and parameters, loaded again and compared with closed forms of the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import pvae
from pvae.errors import InputError
from pvae.models import VAE, ConditionalVAE
from pvae.models.tensor_functions import TensorFunction, decoder_function, encoder_function
from pvae.train.exported.traced_parts import require_same_values, trace_part

pytestmark = pytest.mark.usefixtures("own_store", "seeded")
RNG = np.random.default_rng(0)
QUICK: dict[str, Any] = {"epochs": 1, "progress": False, "step": "eager", "batch_size": 20}
Forms = dict[str, Callable[..., Tensor]]


class Own(pvae.LatentModel):
    """A user's model of 3 numbers, with its plates over ``len(x)``; the encoder may be replaced."""

    def __init__(self, encode: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        self.decoder, self.encoder = nn.Linear(2, 3), nn.Linear(3, 4)
        self.constants, self.dropout = nn.Parameter(torch.rand(4)), nn.Dropout(0.5)
        self.replaced = encode or (lambda own, x: own.encoder(own.dropout(x)))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.StudentT(3.0, self.decoder(z), 0.5).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, raw = self.replaced(self, x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


def _gaussian() -> tuple[pvae.Run, tuple[Tensor, ...], tuple[Tensor, ...], Forms]:
    run = pvae.fit(VAE((2, 3), latent=2, hidden=(4,), likelihood="gaussian"), torch.rand(20, 2, 3), **QUICK)
    return run, (torch.rand(7, 2, 3),), (torch.randn(7, 2),), {
        "z.loc": lambda x: run.model.encode(x).base_dist.loc,
        "z.scale": lambda x: run.model.encode(x).base_dist.scale,
        "x.loc": lambda z: run.model.decode(z).mean.reshape(-1, 2, 3),
        "x.scale": lambda z: run.model.likelihood.log_scale.exp().expand(len(z), 2, 3),
    }  # fmt: skip


def _convolutional() -> tuple[pvae.Run, tuple[Tensor, ...], tuple[Tensor, ...], Forms]:
    run = pvae.fit(VAE((6, 5), latent=2, network="conv", hidden=(3, 4)), torch.rand(20, 6, 5).round(), **QUICK)
    return run, (torch.rand(7, 6, 5),), (torch.randn(7, 2),), {
        "z.loc": lambda x: run.model.encode(x).base_dist.loc,
        "z.scale": lambda x: run.model.encode(x).base_dist.scale,
        "x.logits": lambda z: run.model.likelihood.head(run.model.decoder(z)),
        "x.mean": lambda z: run.model.likelihood.head(run.model.decoder(z)).sigmoid(),
    }  # fmt: skip


def _conditional() -> tuple[pvae.Run, tuple[Tensor, ...], tuple[Tensor, ...], Forms]:
    data = (torch.rand(20, 4).round(), torch.arange(20) % 3)
    run = pvae.fit(ConditionalVAE((4,), classes=3, latent=2, hidden=(4,)), data, **QUICK)
    labels = torch.tensor([2, 0, 1, 1, 0, 2, 2])
    return run, (torch.rand(7, 4), labels), (torch.randn(7, 2), labels), {
        "z.loc": lambda x, y: run.model.encode(x, y).base_dist.loc,
        "z.scale": lambda x, y: run.model.encode(x, y).base_dist.scale,
        "x.logits": lambda z, y: run.model.decode(z, y).base_dist.logits,
        "x.mean": lambda z, y: run.model.decode(z, y).mean,
    }  # fmt: skip


def _own() -> tuple[pvae.Run, tuple[Tensor, ...], tuple[Tensor, ...], Forms]:
    run = pvae.fit(Own(), torch.rand(20, 3), **QUICK)
    return run, (torch.rand(7, 3),), (torch.randn(7, 2),), {
        "z.loc": lambda x: run.model.encoder(x)[:, :2],
        "z.scale": lambda x: run.model.encoder(x)[:, 2:].exp(),
        "x.df": lambda z: torch.full((len(z), 3), 3.0),
        "x.loc": lambda z: run.model.decoder(z),
        "x.mean": lambda z: run.model.decoder(z),
        "x.scale": lambda z: torch.full((len(z), 3), 0.5),
    }  # fmt: skip


SYSTEMS = {"gaussian": _gaussian, "conv": _convolutional, "conditional": _conditional, "own": _own}


@pytest.mark.parametrize("system", list(SYSTEMS))
def test_exported_parts_give_the_parameters_of_the_densities_at_any_number_of_data(system: str, tmp_path: Path) -> None:
    run, x, z, forms = SYSTEMS[system]()
    outputs: set[str] = set()
    for part, arguments in {"encoder": x, "decoder": z}.items():
        path, extra = run.export(tmp_path / f"{part}.pt2", part), {"pvae.json": ""}
        loaded = torch.export.load(path, extra_files=extra).module()
        about = json.loads(extra["pvae.json"])
        assert [entry["shape"] for entry in about["inputs"]] == [["batch", *value.shape[1:]] for value in arguments]
        for size in (1, 7):
            some = [value[:size] for value in arguments]
            values = loaded(*some)
            assert list(values) == [entry["name"] for entry in about["outputs"]]
            for name, value in values.items():
                torch.testing.assert_close(value, forms[name](*some).detach(), rtol=1e-5, atol=1e-6)
        outputs |= values.keys()
    assert outputs == forms.keys()
    assert about["part"] == "decoder" and about["inputs"][0] == {
        "name": "z", "shape": ["batch", 2], "dtype": "float32", "is": "latent site"
    }  # fmt: skip


def test_codes_from_a_file_alone_are_those_of_the_run_in_the_units_of_the_data(tmp_path: Path) -> None:
    table = pd.DataFrame({"height": 170 + 10 * RNG.normal(size=40), "weight": RNG.gamma(9.0, 8.0, size=40)})
    data = pvae.load_data(table, standardise=True, binarise="none")
    run = pvae.fit(VAE((2,), latent=1, hidden=(4,), likelihood="gaussian"), data, **QUICK)
    before, drawn = {name: value.clone() for name, value in run.model.state_dict().items()}, run.sample(5)
    extra = {"pvae.json": ""}
    loaded = torch.export.load(run.export(tmp_path / "e.pt2", "encoder"), extra_files=extra).module()
    about = json.loads(extra["pvae.json"])
    assert about["preprocessing"]["columns"] == ["height", "weight"]
    scaling = about["preprocessing"]["scaling"]
    x = (table.to_numpy() - np.array(scaling["shift"])) / np.array(scaling["scale"])
    codes = loaded(torch.tensor(x, dtype=torch.float32))["z.loc"]
    np.testing.assert_allclose(codes.detach(), run.encode(table), rtol=1e-5, atol=1e-6)
    weights = run.export(tmp_path / "w.safetensors")
    with safe_open(weights, "pt") as file:
        recorded = json.loads(file.metadata()["pvae"])
        assert set(file.keys()) == before.keys()
        for name, value in before.items():
            assert torch.equal(file.get_tensor(name), value) and torch.equal(run.model.state_dict()[name], value)
    assert recorded["preprocessing"] == about["preprocessing"] and recorded["part"] == "parameters"
    pd.testing.assert_frame_equal(run.sample(5), drawn)


def _branch(own: Own, x: Tensor) -> Tensor:
    h = own.encoder(x)
    return h if float(h.mean()) > 0 else 2 * h


PROGRAMS: dict[str, tuple[Callable[[Own, Tensor], Tensor], str]] = {
    "branch": (_branch, r"a branch from the values of a tensor \(.*test_exports.py:\d+\)"),
    "loop": (lambda own, x: torch.stack([own.encoder(row) for row in x]), "fixes the number of data"),
    "row": (lambda own, x: own.encoder(x - x.mean(0)), "z.loc for a datum depends on the other data of the batch"),
    "noise": (lambda own, x: own.encoder(x + torch.randn_like(x)), "z.loc depends on random numbers"),
    "constant": (lambda own, x: own.constants.expand(len(x), 4), "do not depend on data"),
}


def test_encoders_of_counts_and_of_padded_sequences_are_exported(tmp_path: Path) -> None:
    x, lengths = torch.randint(0, 5, (20, 6)).float(), torch.randint(1, 4, (20,))
    topics = pvae.fit(pvae.ProdLDA(6, topics=2, hidden=4), x, **QUICK)
    sequence = pvae.SequenceVAE((3, 2), latent=2, hidden=4, state=4, between=4, likelihood="gaussian")
    steps = pvae.fit(sequence, {"x": x.reshape(20, 3, 2), "lengths": lengths}, **QUICK)
    loaded = torch.export.load(topics.export(tmp_path / "topics.pt2", "encoder")).module()
    assert torch.allclose(loaded(x)["z.loc"], topics.model.encode(x).mean)
    loaded = torch.export.load(steps.export(tmp_path / "steps.pt2", "encoder")).module()
    codes = sequence.codes(x.reshape(20, 3, 2), lengths)
    assert torch.allclose(loaded(x.reshape(20, 3, 2), lengths)["z0.loc"], codes[:, 0], atol=1e-6)


@pytest.mark.parametrize("program", list(PROGRAMS))
def test_what_is_no_function_of_one_datum_is_refused_with_the_reason(program: str) -> None:
    encode, reason = PROGRAMS[program]
    function = encoder_function(Own(encode), {"x": torch.rand(5, 3)})
    with pytest.raises(InputError, match=reason):
        _export(function)


def _export(function: TensorFunction) -> None:
    traced = trace_part(function)
    require_same_values(traced.function, traced.program.module(), [(torch.rand(9, 3),)])


def test_a_site_that_all_data_share_and_a_density_without_parameters_are_refused_by_name() -> None:
    def model(x: Tensor) -> None:
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(level, 1.0).expand([3]).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("level", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            flow = [dist.transforms.AffineTransform(x, 1.0), dist.transforms.TanhTransform()]
            pyro.sample("u", dist.TransformedDistribution(dist.Normal(0.0, 1.0).expand([3]), flow).to_event(1))

    batch = {"x": torch.rand(5, 3)}
    with pytest.raises(InputError, match="share the latent site 'level'"):
        decoder_function(pvae.pair(model, guide), batch)
    with pytest.raises(InputError, match="'u' has a TransformedDistribution, which has no mean"):
        trace_part(encoder_function(pvae.pair(model, guide), batch))


@pytest.mark.parametrize(
    ("path", "part", "reason"),
    [
        ("model.pkl", "encoder", r"ends in \.pt2, \.onnx, \.safetensors"),
        ("model.pt2", None, "needs the part 'encoder' or 'decoder'; got part=None"),
        ("model.onnx", "prior", "got part='prior'"),
        ("w.safetensors", "encoder", "holds all parameters"),
        ("no/where.pt2", "encoder", "does not exist"),
    ],
)
def test_paths_and_parts_that_do_not_fit_are_refused(path: str, part: str | None, reason: str, tmp_path: Path) -> None:
    run = pvae.Run(VAE((2,), latent=1), [], None, {"objective": "elbo"}, 0.0)
    with pytest.raises(InputError, match=reason):
        run.export(tmp_path / path, part)
    assert not list(tmp_path.iterdir())


def test_an_untrained_encoder_is_not_exported(tmp_path: Path) -> None:
    run = pvae.Run(VAE((2,), latent=1), [], None, {"objective": "gan"}, 0.0)
    with pytest.raises(InputError, match="leaves the guide untrained"):
        run.export(tmp_path / "e.pt2", "encoder")


def test_without_its_packages_an_onnx_file_is_refused_by_the_name_of_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pvae.train.exported.export_files._ONNX_PACKAGES", ("no_such_package",))
    run = pvae.Run(VAE((2,), latent=1), [], None, {"objective": "elbo"}, 0.0)
    with pytest.raises(InputError, match=r'no_such_package: pip install "pvae\[onnx\]"'):
        run.export(tmp_path / "e.onnx", "encoder")


def test_an_onnx_file_gives_the_same_values_with_names(tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason='ONNX files need the extra "onnx"')
    runtime = pytest.importorskip("onnxruntime", reason='ONNX files need the extra "onnx"')
    run, x, _, forms = _conditional()
    session = runtime.InferenceSession(str(run.export(tmp_path / "e.onnx", "encoder")))
    about = json.loads(session.get_modelmeta().custom_metadata_map["pvae"])
    names = [entry["name"] for entry in about["inputs"]]
    assert names == [argument.name for argument in session.get_inputs()] == ["x", "y"]
    values = session.run(["z.scale", "z.loc"], {name: value.numpy() for name, value in zip(names, x, strict=True)})
    for name, value in zip(["z.scale", "z.loc"], values, strict=True):
        np.testing.assert_allclose(value, forms[name](*x).detach(), rtol=1e-4, atol=1e-5)
