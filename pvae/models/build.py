"""A latent model from its name: a built-in one, or a user's own in a file or an installed module."""

from __future__ import annotations

import copy
import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from pvae.densities.parts import accepted, check_settings
from pvae.errors import InputError
from pvae.json_values import is_plain, without_numpy
from pvae.models.autoencoder import Autoencoder
from pvae.models.conditional import ConditionalVAE
from pvae.models.gaussian_mixture_vae import GMVAE
from pvae.models.ladder import LadderVAE
from pvae.models.masked import MaskedVAE
from pvae.models.mixture import GMM
from pvae.models.semisupervised import SemiSupervisedVAE
from pvae.models.vae import VAE
from pvae.models.vector_quantised import VQVAE
from pvae.names import unknown
from pvae.programs.model_traits import is_latent_model, traits_of

__all__ = ["FACTS", "MODELS", "ModelSpec", "spec_of"]

MODELS: dict[str, Callable[..., Any]] = {
    "autoencoder": Autoencoder,
    "cvae": ConditionalVAE,
    "gmm": GMM,
    "gmvae": GMVAE,
    "ladder-vae": LadderVAE,
    "masked-vae": MaskedVAE,
    "ssvae": SemiSupervisedVAE,
    "vae": VAE,
    "vqvae": VQVAE,
}


# What a constructor may ask of the data by naming it.
FACTS = ("data_shape", "classes", "condition_shape", "data_size")


class _HasShape(Protocol):
    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of one x."""


@dataclass(frozen=True)
class ModelSpec:
    """A recipe for a latent model, which can be pickled and built in another process.

    Args:
        name: a name of `MODELS`, or ``"my_model.py:MyModel"``, or ``"package.module:Class"``: a class, a
            function that makes a latent model, or an instance (of which each build is a copy).
        settings: arguments of the class or function, by name.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)

    def build(self, splits: _HasShape) -> Any:
        """Return a new latent model. A constructor gets what it names of `FACTS` from the data.

        These are ``data_shape``, the shape of one x; ``classes``, the number of label values; ``condition_shape``,
        the shape of one c; and ``data_size``, the number of training data.

        Args:
            splits: the data, of which these properties are read.

        Raises:
            InputError: for an unknown model, file, class or setting (the nearest is named), a missing one,
                an error in the user's file (with its line), or a result without ``model`` and ``guide``.
        """
        path, found = self._find()
        label = self.name if path is None else f"{path.name}:{getattr(found, '__name__', self._attribute)}"
        if is_latent_model(found) and not isinstance(found, type):
            if self.settings:
                raise InputError(f"{label} is an instance and takes no settings; got {', '.join(self.settings)}.")
            return copy.deepcopy(found)
        if not callable(found):
            raise InputError(f"{label} is {type(found).__name__}; a class, a function or an instance was needed.")
        settings = dict(self.settings)
        for name in [each for each in accepted(found)[0] if each in FACTS and each not in settings]:
            if getattr(splits, name, None) is not None:
                settings[name] = getattr(splits, name)
        if "classes" not in settings and accepted(found)[0].get("classes"):
            raise InputError(f"{label} needs classes: labels y in the data, whole numbers 0, 1, ... and one per datum.")
        check_settings(label, found, settings)
        if path is None:
            return found(**settings)
        with _errors_of(path, label):
            made = found(**settings)
        if not is_latent_model(made):
            raise InputError(f"{label} made {type(made).__name__}, which lacks model or guide; write both.")
        return made

    def check(self) -> None:
        """Raise InputError where the name stands for nothing, before anything is built or trained."""
        self._find()

    @property
    def default_objective(self) -> str:
        """The objective that the class names as its own, as text; ``"elbo"`` where it names none."""
        return str(traits_of(self._find()[1]).default_objective)

    @property
    def _attribute(self) -> str:
        return self.name.rpartition(":")[2]

    def _find(self) -> tuple[Path | None, Any]:
        """The file that holds the model, where it is a user's, and what the name stands for."""
        home, separator, attribute = self.name.rpartition(":")
        if not separator:
            if self.name.endswith(".py"):
                raise InputError(f"Name the class too, as {self.name}:MyModel; got {self.name!r}.")
            if self.name not in MODELS:
                raise unknown("model", self.name, [*MODELS, "my_model.py:MyModel"])
            return None, MODELS[self.name]
        if not home or not attribute:
            raise InputError(f"Write the file and the class, as my_model.py:MyModel; got {self.name!r}.")
        path = Path(home).expanduser() if home.endswith(".py") else None
        module = _load_module(home) if path is None else _load_file(path)
        if not hasattr(module, attribute):
            raise unknown(f"model in {home}", attribute, _candidates(module))
        return path or Path(module.__file__ or home), getattr(module, attribute)


def spec_of(latent_model: Any) -> ModelSpec | None:
    """Return the recipe of an instance, from the arguments that it was made with; None where these do not tell.

    That is so for classes of a function's inside or of a script that runs, and for arguments other than numbers,
    texts and tuples of them.
    """
    made = type(latent_model)
    arguments, settings = latent_model.__dict__.get("_pvae_arguments", (None, {}))
    homes = sys.modules.keys() - {"__main__", "builtins"}
    if arguments is None or "." in made.__qualname__ or made.__module__ not in homes:
        return None
    signature = inspect.signature(made.__init__)
    try:
        bound = signature.bind(latent_model, *arguments, **settings).arguments
    except TypeError:
        return None
    named = dict(list(bound.items())[1:])
    for others in [name for name, each in signature.parameters.items() if each.kind is each.VAR_KEYWORD]:
        named |= named.pop(others, {})
    # said outright, for what is not said is read off the data where the recipe is built
    defaults = {name: signature.parameters[name].default for name in FACTS if name in signature.parameters}
    named = {**{name: each for name, each in defaults.items() if each is not inspect.Parameter.empty}, **named}
    named = {name: without_numpy(value) for name, value in named.items()}
    if not all(map(is_plain, named.values())):
        return None
    builtin = [name for name, each in MODELS.items() if each is made]
    return ModelSpec(builtin[0] if builtin else f"{_home(made)}:{made.__qualname__}", named)


def _home(made: type) -> str:
    """The module that holds a class, or its file where the module cannot be imported by name."""
    file = sys.modules[made.__module__].__file__
    # asked of the path alone: a file that was loaded as a module is in sys.modules, and cannot be imported elsewhere
    found = importlib.machinery.PathFinder.find_spec(made.__module__.partition(".")[0])
    return made.__module__ if found is not None or file is None else file


def _candidates(module: ModuleType) -> list[str]:
    """What a person may have meant: the module's own classes and functions, and its latent models."""
    return [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and (getattr(thing, "__module__", None) == module.__name__ or is_latent_model(thing))
        and (callable(thing) or is_latent_model(thing))
    ]


def _load_module(name: str) -> ModuleType:
    with _errors_of(None, name):
        return importlib.import_module(name)


def _load_file(path: Path) -> ModuleType:
    """The file as a module, loaded once for the same place and text, so that its classes stay the same."""
    if not path.is_file():
        raise InputError(f"No file {str(path)!r}; a model of your own is named as my_model.py:MyModel.")
    text = path.read_bytes()
    digest = hashlib.sha256(str(path.resolve()).encode() + b"\0" + text).hexdigest()[:12]
    name = f"{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise InputError(f"{path} cannot be loaded as Python.")
    module = importlib.util.module_from_spec(spec)
    # Before it runs, as import does: dataclasses and pickle look classes up by their module's name.
    sys.modules[name] = module
    try:
        with _errors_of(path, path.name), _importable(path.resolve().parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """The user's file may import its neighbours, as a script may."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


@contextmanager
def _errors_of(path: Path | None, label: str) -> Iterator[None]:
    """Turn an error of a user's code into one line with the place. What is an `InputError` already stays."""
    try:
        yield
    except InputError:
        raise
    except SyntaxError as error:
        place = f"{error.filename}, line {error.lineno}" if error.filename else label
        raise InputError(f"{place}: {type(error).__name__}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        said = " ".join(str(error).split()) or "no message"
        raise InputError(f"{_place(path, error) or label}: {type(error).__name__}: {said}") from error


def _place(path: Path | None, error: BaseException) -> str:
    """File and line of the innermost frame in the user's file."""
    file = "" if path is None else str(path.resolve())
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{path}, line {lines[-1]}" if lines else ""
