"""Trainings with the products of the fastest libraries: the same bits after a break, and a word where they differ."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from stepping import assert_equal, parameters_of

import pvae
from pvae.files import write_text
from pvae.products.kind_of_product import ProductKind
from pvae.products.libraries import PRODUCTS_IN_ROW, is_offered
from pvae.train.checkpoint import read
from pvae.train.encoding import canonical, digest
from pvae.train.run import read_config
from pvae.train.run_record import config_hash

pytestmark = [
    pytest.mark.usefixtures("cache"),
    pytest.mark.skipif(not is_offered("numpy", torch.float32), reason="NumPy has another number of threads"),
]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("PVAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "products"


@pytest.fixture
def winner(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The library that wins each timing, at the key "name"."""
    name = {"name": "numpy"}

    def fastest(kind: ProductKind) -> str:
        return name["name"]

    monkeypatch.setattr("pvae.products.product_choices.fastest_library", fastest)
    return name


def train(out: Path | None = None, **options: Any) -> pvae.train.Run:
    """Two epochs of batches of 64 and 40 data, each of which has products of its own kinds."""
    torch.manual_seed(0)
    model = pvae.VAE((64,), latent=2, hidden=(450,))
    x = torch.rand(104, 64, generator=torch.Generator().manual_seed(0)).round()
    data = pvae.load_data(x, validation=0, test=0)
    return pvae.fit(model, data, **{"epochs": 2, "batch_size": 64, "progress": False, "out": out, **options})


def choices(out: Path) -> dict[str, str]:
    """The libraries that the last checkpoint records."""
    return dict(read(out / "last").state["products"]["choices"])


def test_torch_alone_has_the_bits_of_the_eager_step_and_the_libraries_agree_within_rounding(winner: Any) -> None:
    eager, aten, fast = (parameters_of(train(**options)) for options in ({"step": "eager"}, {"matmul": "aten"}, {}))
    assert_equal(eager, aten)
    assert any(not torch.equal(fast[name], aten[name]) for name in aten)
    for name, tensor in aten.items():
        torch.testing.assert_close(fast[name], tensor, rtol=1e-4, atol=1e-5)


def test_a_resumed_training_has_the_same_bits_without_the_file_of_choices(
    cache: Path, winner: dict[str, str], tmp_path: Path
) -> None:
    whole = parameters_of(train(tmp_path / "whole"))
    all_choices = choices(tmp_path / "whole")
    train(tmp_path / "parts", max_steps=3)
    assert choices(tmp_path / "parts") == all_choices and set(all_choices.values()) == {"numpy"}
    shutil.rmtree(cache)
    winner["name"] = "aten"
    assert_equal(whole, parameters_of(train(tmp_path / "parts", resume=True)))
    assert choices(tmp_path / "parts") == all_choices


def test_choices_of_another_machine_are_made_anew_and_a_note_says_so(
    cache: Path, winner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "run", max_steps=1)
    identity = {"processor": "another", "torch": "9.9"}
    monkeypatch.setattr("pvae.products.product_choices.machine_identity", lambda: identity)
    train(tmp_path / "run", resume=True, progress=None)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "matrix products" in line]
    assert "chosen again" in line and "processor another in place of" in line and "torch 9.9" in line
    assert read(tmp_path / "run" / "last").state["products"]["machine"] == identity


def test_a_library_that_is_wrong_in_the_graph_is_replaced_by_torch_with_a_warning(
    winner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aten = parameters_of(train(matmul="aten"))
    right = PRODUCTS_IN_ROW["numpy"]
    monkeypatch.setitem(PRODUCTS_IN_ROW, "numpy", lambda *arguments: right(*arguments) * (1 + 1e-3))
    with pytest.warns(UserWarning, match="computed by torch alone: with the faster libraries, its .* differs"):
        run = train(tmp_path / "run")
    assert run.step == "graph"
    assert_equal(aten, parameters_of(run))
    assert set(choices(tmp_path / "run").values()) == {"aten"}


def test_a_run_from_before_the_option_continues_with_the_products_of_torch(winner: Any, tmp_path: Path) -> None:
    whole = parameters_of(train(matmul="aten"))
    out = tmp_path / "run"
    train(out, max_steps=1, matmul="aten")
    config = read_config(out)
    config["training"].pop("matmul")
    write_text(out / "config.toml", tomli_w.dumps(config))
    for name in ("last", "last.previous"):  # their checksums are those of the former options
        path = out / name / "state.json"
        if path.exists():
            body = json.loads(path.read_text())["state"]
            body.pop("products")
            body["config"] = config_hash(config)
            path.write_text(json.dumps({"sha256": digest(canonical(body)), "state": body}))
    with pytest.raises(pvae.InputError, match="matmul is 'auto' here"):
        pvae.train.run_folder.snapshot_to_resume(
            out, {**config, "training": {**config["training"], "matmul": "auto"}}, config, ()
        )
    assert_equal(whole, parameters_of(train(out, resume=True)))
    assert read_config(out)["training"]["matmul"] == "aten"


def test_an_unknown_value_is_refused() -> None:
    with pytest.raises(pvae.InputError, match=r"Unknown matmul 'mkl'\. Known: aten, auto"):
        train(matmul="mkl")
