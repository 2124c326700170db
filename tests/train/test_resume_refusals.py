"""A run goes on only with the same model, code, objective, data, options and versions, or with accepted changes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import pvae
from pvae.errors import InputError
from pvae.models.source_code import code_digests
from pvae.train import run_record
from pvae.train.run import read_config

OWN = """
import pyro, torch, pvae
import pyro.distributions as dist
from parts.sizes import LATENT

class Own(pvae.LatentModel):
    def __init__(self):
        super().__init__()
        self.decoder, self.encoder = torch.nn.Linear(LATENT, 6), torch.nn.Linear(6, LATENT)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))
"""


def data() -> pvae.Splits:
    x = (torch.rand(40, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    return pvae.load_data(x, validation=0, test=0, binarise="none")


def train(model: Any, out: Path, **options: Any) -> pvae.Run:
    return pvae.fit(model, data(), **{"out": out, "epochs": 1, "step": "eager", "progress": False, **options})


def vae(**settings: Any) -> pvae.ModelSpec:
    return pvae.ModelSpec("vae", {"latent": 2, "hidden": (5,), **settings})


@pytest.mark.parametrize(
    "settings", [{"activation": "relu"}, {"initialisation": "he"}, {"likelihood": "continuous-bernoulli"}]
)
def test_another_setting_of_the_same_shapes_is_refused_by_name(tmp_path: Path, settings: dict[str, Any]) -> None:
    train(vae(), tmp_path / "run")
    with pytest.raises(InputError, match=f"{next(iter(settings))}"):
        train(vae(**settings), tmp_path / "run", epochs=2, resume=True)
    assert train(vae(), tmp_path / "run", epochs=2, resume=True).epoch == 2


def test_an_argument_that_is_an_object_is_compared_too(tmp_path: Path) -> None:
    class Scaled(pvae.LatentModel):
        def __init__(self, layer: torch.nn.Module) -> None:
            super().__init__()
            self.vae = pvae.VAE((6,), latent=2, hidden=5)
            self.layer = layer

        def model(self, x: torch.Tensor) -> Any:
            return self.vae.model(x)

        def guide(self, x: torch.Tensor) -> Any:
            return self.vae.guide(x)

    train(Scaled(torch.nn.Softplus(beta=1.0)), tmp_path / "run")
    with pytest.raises(InputError, match=r"model layer is 'Softplus\(beta=2.0.* here and 'Softplus\(beta=1.0"):
        train(Scaled(torch.nn.Softplus(beta=2.0)), tmp_path / "run", epochs=2, resume=True)
    assert train(Scaled(torch.nn.Softplus(beta=1.0)), tmp_path / "run", epochs=2, resume=True).epoch == 2


@pytest.mark.parametrize("changed", ["own.py", "parts/sizes.py", "parts/__init__.py"])
def test_a_changed_file_of_the_user_is_refused_by_name_and_may_be_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("parts").mkdir()
    for name, text in (("own.py", OWN), ("parts/__init__.py", ""), ("parts/sizes.py", "LATENT = 2\n")):
        Path(name).write_text(text)
    for name in ("parts", "parts.sizes"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    spec, out = pvae.ModelSpec("own.py:Own"), tmp_path / "run"
    train(spec, out)
    Path(changed).write_text(Path(changed).read_text() + "# another line\n")
    with pytest.raises(InputError, match=rf"code {changed} is 'sha256 .*--allow-changed"):
        train(spec, out, epochs=2, resume=True)
    with pytest.raises(InputError, match=f"code {changed}"):
        train(spec, out, epochs=2, resume=True, allow_changed="versions")
    assert train(spec, out, epochs=2, resume=True, allow_changed="versions, model").epoch == 2
    assert train(spec, out, epochs=3, resume=True).epoch == 3, "the accepted file is the recorded one now"
    for name in ("parts", "parts.sizes"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_another_version_is_refused_on_resume_and_shown_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(vae(), tmp_path / "run")
    assert run_record.changes_since_training(run.model, run.config) == []
    versions = run_record._versions()
    monkeypatch.setattr(run_record, "_versions", lambda: {**versions, "torch": "9.9"})
    with pytest.raises(InputError, match=r"version of torch is '9.9' here and"):
        train(vae(), tmp_path / "run", epochs=2, resume=True)
    (line,) = run_record.changes_since_training(run.model, run.config)
    assert "version of torch is 9.9; it was" in line
    assert train(vae(), tmp_path / "run", epochs=2, resume=True, allow_changed=["versions"]).epoch == 2


def test_a_config_that_was_edited_to_fit_is_noticed(tmp_path: Path) -> None:
    train(vae(activation="tanh"), tmp_path / "run")
    path = tmp_path / "run" / "config.toml"
    path.write_text(path.read_text().replace("tanh", "relu"))
    assert read_config(tmp_path / "run")["model"]["settings"]["activation"] == "relu"
    with pytest.raises(InputError, match=r"config\.toml is damaged, or was changed since the checkpoint"):
        train(vae(activation="relu"), tmp_path / "run", epochs=2, resume=True)


def test_an_unknown_kind_of_change_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'versions'"):
        train(vae(), tmp_path / "run", resume=True, allow_changed="version")
    assert not (tmp_path / "run").exists()


SCRIPT = """
import pyro, pvae
from neighbour import shift
import neighbour_of_other_lines
SCALE, EPOCHS = 1.0, 3

def helper(x):
    return shift(x) * SCALE

def unused(x):
    return x

def model(x):
    return helper(x)

def guide(x):
    return x

if __name__ == "__main__":
    from pvae.models.source_code import code_digests
    print(code_digests(pvae.pair(model, guide)))
"""


@pytest.mark.parametrize(
    ("old", "new", "differs"),
    [
        ("shift(x) * SCALE", "shift(x) + SCALE", True),
        ("SCALE, EPOCHS = 1.0", "SCALE, EPOCHS = 2.0", True),
        ("def guide(x):\n    return x", "def guide(x):\n    return -x", True),
        ("def unused(x):\n    return x", "def unused(x):\n    return 2", False),
        ("import pyro, pvae", "import pyro, pvae  # a comment", False),
    ],
)
def test_of_a_script_only_what_the_programs_use_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, differs: bool
) -> None:
    def digests(text: str) -> dict[str, str]:
        path = tmp_path / "script.py"
        path.write_text(text)
        module = type(sys)("__main__")
        module.__file__ = str(path)
        monkeypatch.syspath_prepend(tmp_path)
        exec(compile(text.partition("if __name__")[0], path, "exec"), module.__dict__)
        monkeypatch.setitem(sys.modules, "__main__", module)
        return code_digests(pvae.pair(module.model, module.guide))

    for name in ("neighbour", "neighbour_of_other_lines"):
        (tmp_path / f"{name}.py").write_text("def shift(x):\n    return x + 1\n")
    before = digests(SCRIPT)
    assert set(before) == {"script.py", "neighbour.py"}
    assert (before != digests(SCRIPT.replace(old, new))) is differs
    (tmp_path / "neighbour.py").write_text("def shift(x):\n    return x + 2\n")
    assert before["neighbour.py"] != digests(SCRIPT)["neighbour.py"]


def test_of_a_package_the_modules_that_are_imported_by_their_full_names_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "laboratory").mkdir()
    texts = {"__init__": "", "base": "", "unused": "", "mine": "from laboratory import base\ndef model(x): pass\n"}
    for name, text in texts.items():
        (tmp_path / "laboratory" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    from laboratory.mine import model

    files = {f"laboratory/{name}.py" for name in ("__init__", "base", "mine")}
    assert set(code_digests(pvae.pair(model, model))) == files


def test_objects_of_pvae_alone_have_no_code_of_a_user() -> None:
    assert code_digests(vae().build(data()), pvae.IWAE(2)) == {}
