"""Models from names: built-in ones, and a person's own in a file, with every mistake answered in one line."""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pvae.densities import StandardNormal
from pvae.errors import InputError
from pvae.models.build import ModelSpec, spec_of
from pvae.models.vae import VAE
from pvae.programs.base import LatentModel

DATA = SimpleNamespace(data_shape=(2, 3))

OWN = """
import pyro, pyro.distributions as dist, torch
from torch import nn
from pvae.programs.base import LatentModel, pair
import neighbour

class MyModel(LatentModel):
    def __init__(self, data_shape, latent=2):
        super().__init__()
        self.decoder = nn.Linear(latent, neighbour.size(data_shape))
        self.latent = latent

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent), 1).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(self.latent), 1).to_event(1))

class Plain:
    def __init__(self, width, **rest):
        self.width, self.rest = width, rest
    def model(self, x): pass
    def guide(self, x): pass

class Broken(MyModel):
    def __init__(self, latent=2):
        super().__init__((2, 3), latent)
        self.oops = undefined_name

def factory(latent):
    return MyModel((6,), latent)

def nothing():
    return 3

instance = MyModel((6,))
two = pair(lambda x: None, lambda x: None)
number = 3
"""
LINE = 1 + OWN.splitlines().index("        self.oops = undefined_name")


@pytest.fixture
def own(tmp_path):
    (tmp_path / "neighbour.py").write_text("import math\ndef size(shape): return math.prod(shape)\n")
    (tmp_path / "my_model.py").write_text(OWN)
    path, modules = list(sys.path), set(sys.modules)
    yield f"{tmp_path}/my_model.py"
    assert sys.path == path
    for name in set(sys.modules) - modules:
        if name == "neighbour" or name.startswith("my_model"):
            del sys.modules[name]


def test_vae_gets_the_shape_of_the_data():
    vae = ModelSpec("vae", {"latent": 3, "hidden": 5}).build(DATA)
    assert isinstance(vae, VAE)
    assert (vae.data_shape, vae.latent) == ((2, 3), 3)
    assert ModelSpec("vae", {"data_shape": (6,)}).build(DATA).data_shape == (6,)


def test_spec_builds_the_same_after_pickling():
    spec = ModelSpec("vae", {"latent": 3, "hidden": (5, 4)})
    assert pickle.loads(pickle.dumps(spec)) == spec


@pytest.mark.paths
def test_class_in_a_file(own):
    made = ModelSpec(f"{own}:MyModel", {"latent": 4}).build(DATA)
    assert (made.latent, made.decoder.out_features) == (4, 6)
    again = ModelSpec(f"{own}:MyModel").build(DATA)
    assert type(again) is type(made)
    copy = pickle.loads(pickle.dumps(made))
    assert torch.equal(copy.decoder.weight, made.decoder.weight)


@pytest.mark.paths
def test_changed_file_is_loaded_afresh(own):
    first = ModelSpec(f"{own}:MyModel").build(DATA)
    with open(own, "a") as file:
        file.write("\nMyModel.mark = 1\n")
    second = ModelSpec(f"{own}:MyModel").build(DATA)
    assert second.mark == 1
    assert not hasattr(first, "mark")


def test_function_instance_pair_and_plain_class(own):
    assert ModelSpec(f"{own}:factory", {"latent": 3}).build(DATA).latent == 3
    plain = ModelSpec(f"{own}:Plain", {"width": 3, "anything": 4}).build(DATA)
    assert (plain.width, plain.rest) == (3, {"anything": 4})
    assert callable(ModelSpec(f"{own}:two").build(DATA).guide)


def test_each_build_of_an_instance_is_a_copy(own):
    spec = ModelSpec(f"{own}:instance")
    first, second = spec.build(DATA), spec.build(DATA)
    with torch.no_grad():
        first.decoder.weight.zero_()
    assert second.decoder.weight.abs().max() > 0


def test_class_of_a_module():
    assert isinstance(ModelSpec("pvae.models.vae:VAE", {"latent": 2}).build(DATA), VAE)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("MyModle", {}, "Unknown model in .*my_model.py 'MyModle'; did you mean 'MyModel'"),
        ("MyModel", {"latnet": 3}, "Unknown setting 'latnet' of my_model.py:MyModel; did you mean 'latent'"),
        ("Plain", {}, "my_model.py:Plain needs width. Give a value with --set width="),
        ("factory", {}, "needs latent"),
        ("instance", {"latent": 3}, "is an instance and takes no settings; got latent"),
        ("number", {}, "needs to be a class, a function or an instance; got int"),
        ("nothing", {}, "made int, which lacks model or guide"),
        ("Broken", {}, rf"my_model.py, line {LINE}: NameError: name 'undefined_name' is not defined"),
        ("MyModel", {"latent": "many"}, r"my_model.py, line 10: TypeError: "),
    ],
)
def test_mistakes_about_a_file_are_named(own, name, settings, said):
    with pytest.raises(InputError, match=said) as caught:
        ModelSpec(f"{own}:{name}", settings).build(DATA)
    assert "\n" not in str(caught.value)


@pytest.mark.paths
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import torch\n\ndef f(:\n    pass\n", "broken.py, line 3: SyntaxError: "),
        ("x = 1\nfrom torch import no_such_name\n", "broken.py, line 2: ImportError: "),
        ("\n\nraise ValueError('a\\nb')\n", "broken.py, line 3: ValueError: a b"),
        ("import sys\nsys.exit(1)\n", "broken.py, line 2: SystemExit: 1"),
    ],
)
def test_error_in_the_file_is_told_with_its_line(tmp_path, text, said):
    (tmp_path / "broken.py").write_text(text)
    for _ in range(2):
        with pytest.raises(InputError, match=said) as caught:
            ModelSpec(f"{tmp_path}/broken.py:Model").build(DATA)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vea", "Unknown model 'vea'; did you mean 'vae'"),
        ("nowhere.py:Model", "There is no file 'nowhere.py'"),
        ("my_model.py", "Name the class too, as my_model.py:MyModel"),
        ("no.such.module:Model", "no.such.module: ModuleNotFoundError"),
        ("pvae.models.vae:VEA", "did you mean 'VAE'"),
        (":VAE", "Write"),
        ("vae:", "Write"),
    ],
)
def test_unknown_names_are_answered(name, said):
    with pytest.raises(InputError, match=said) as caught:
        ModelSpec(name).build(DATA)
    assert "\n" not in str(caught.value)


def test_an_instance_remembers_how_it_was_made() -> None:
    made = VAE((8, 8), latent=3, hidden=(5,), output_bias=None)
    for each in (made, copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        spec = spec_of(each)
        assert spec == ModelSpec("vae", {"data_shape": (8, 8), "latent": 3, "hidden": (5,), "output_bias": None})
    assert spec_of(VAE((8, 8), prior=StandardNormal(16))) is None


@pytest.mark.paths
def test_an_instance_of_a_file_is_known_by_its_file(tmp_path: Path) -> None:
    file = tmp_path / "own_model.py"
    file.write_text(
        "import pvae\n\nclass Own(pvae.LatentModel):\n"
        "    def __init__(self, size=2):\n        super().__init__()\n        self.size = size\n"
        "    def model(self, x): ...\n    def guide(self, x): ...\n"
    )
    made = ModelSpec(f"{file}:Own", {"size": 7}).build(DATA)
    assert spec_of(made) == ModelSpec(f"{file}:Own", {"size": 7})


def test_a_class_inside_a_function_cannot_be_named() -> None:
    class Inner(LatentModel):
        def model(self, x: object) -> None: ...
        def guide(self, x: object) -> None: ...

    assert spec_of(Inner()) is None
