"""Build a latent model from its name: a built-in model, or a user's own in a file or an installed module."""

from __future__ import annotations

import copy
import importlib.machinery
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from pvae.densities.parts import accepted, check_settings
from pvae.errors import InputError
from pvae.json_values import is_plain, without_numpy
from pvae.memory import memory_for_parameters
from pvae.models.attend_infer_repeat import AIR
from pvae.models.autoencoder import Autoencoder
from pvae.models.conditional import ConditionalVAE
from pvae.models.gaussian_mixture_vae import GMVAE
from pvae.models.joint import JointVAE
from pvae.models.ladder import LadderVAE
from pvae.models.load_user_code import candidates, load_file, load_module, user_errors
from pvae.models.masked import MaskedVAE
from pvae.models.mixture import GMM
from pvae.models.multimodal import MultimodalVAE
from pvae.models.semisupervised import SemiSupervisedVAE
from pvae.models.sequence import SequenceVAE
from pvae.models.topic_model import ProdLDA
from pvae.models.vae import VAE
from pvae.models.vector_quantised import VQVAE
from pvae.names import short_label, unknown
from pvae.programs.model_traits import is_latent_model, traits_of
from pvae.user_code import find_user_place

__all__ = ["FACTS", "MODELS", "ModelSpec", "describe_arguments", "describe_value", "setting_names", "spec_of"]

# Saved runs contain these names to build the model again, so a name must not change.
MODELS: dict[str, Callable[..., Any]] = {
    "air": AIR,
    "autoencoder": Autoencoder,
    "cvae": ConditionalVAE,
    "gmm": GMM,
    "gmvae": GMVAE,
    "joint-vae": JointVAE,
    "ladder-vae": LadderVAE,
    "masked-vae": MaskedVAE,
    "multimodal-vae": MultimodalVAE,
    "prodlda": ProdLDA,
    "sequence-vae": SequenceVAE,
    "ssvae": SemiSupervisedVAE,
    "vae": VAE,
    "vqvae": VQVAE,
}

# properties of the data that a constructor gets if it has a parameter of that name
FACTS = ("data_shape", "classes", "condition_shape", "data_size", "field_shapes")


class _HasDataShape(Protocol):
    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of one x."""


@dataclass(frozen=True)
class ModelSpec:
    """A recipe for a latent model, which can be pickled and built in another process.

    Args:
        name: a name of `MODELS`, or ``"my_model.py:MyModel"``, or ``"package.module:Class"``. The name after the colon
            is the name of a class, of a function that makes a latent model, or of an instance; each build returns a
            copy of an instance.
        settings: arguments of the class or function, by name.

    Example:
        >>> import pvae, torch
        >>> spec = pvae.ModelSpec("vae", {"latent": 2, "prior": "vamp:components=5"})
        >>> model = spec.build(pvae.load_data(torch.eye(4).repeat(10, 1)))
        >>> model.sample(3).shape
        torch.Size([3, 4])
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)

    def build(self, splits: _HasDataShape) -> Any:
        """Return a new latent model. Its constructor gets the properties of the data that it has parameters for.

        They are ``data_shape``, the shape of one x; ``classes``, the number of classes; ``condition_shape``, the shape
        of one c; ``data_size``, the number of training data; and ``field_shapes``, of the fields besides x.

        Args:
            splits: the data.

        Raises:
            InputError: for an unknown model, file, class or setting (with the nearest known name); for a missing
                setting; for an error in the user's file (with its line); or for a result without ``model`` and
                ``guide``.
        """
        path, target = self._find()
        label = self.name if path is None else f"{path.name}:{getattr(target, '__name__', self._attribute)}"
        if is_latent_model(target) and not isinstance(target, type):
            return self._copy_instance(label, target)
        if not callable(target):
            raise InputError(
                f"{label} needs to be a class, a function or an instance; got {type(target).__name__}. Name another."
            )
        settings = _add_facts(label, target, self.settings, splits)
        check_settings(label, target, settings)
        with memory_for_parameters(label):
            call = _call_built_in if path is None else partial(_call_user_code, path)
            return call(label, target, settings)

    def _copy_instance(self, label: str, instance: Any) -> Any:
        if self.settings:
            raise InputError(
                f"{label} is an instance and takes no settings; got {', '.join(self.settings)}. Name its class instead."
            )
        return copy.deepcopy(instance)

    def check(self, *, programs: bool = False) -> None:
        """Raise InputError if the name is not that of a model, before anything is built or trained.

        Args:
            programs: whether it must be a class or an instance with the two programs; a function is then refused.
        """
        _, target = self._find()
        if programs and not is_latent_model(target):
            raise InputError(f"{self.name} needs to be a class with model and guide; got {target!r}. Name another.")

    def setting_names(self) -> list[str] | None:
        """Return the names of the settings, without those of `FACTS`; None if any name is accepted."""
        target = self._find()[1]
        if is_latent_model(target) and not isinstance(target, type):
            return []
        return setting_names(target)

    @property
    def default_objective(self) -> str:
        """The objective that the class declares as its default, as text; ``"elbo"`` if it declares none."""
        return str(traits_of(self._find()[1]).default_objective)

    @property
    def _attribute(self) -> str:
        return self.name.rpartition(":")[2]

    def _find(self) -> tuple[Path | None, Any]:
        """Return the file that holds the model, None for a built-in one, and the class, function or instance."""
        home, separator, attribute = self.name.rpartition(":")
        if not separator:
            return None, self._find_builtin()
        if not home or not attribute:
            raise InputError(f"Write the file and the class, as my_model.py:MyModel; got {self.name!r}.")
        path = Path(home).expanduser() if home.endswith(".py") else None
        module = load_module(home) if path is None else load_file(path)
        if not hasattr(module, attribute):
            raise unknown(f"model in {home}", attribute, candidates(module))
        return path or Path(getattr(module, "__file__", None) or home), getattr(module, attribute)

    def _find_builtin(self) -> Callable[..., Any]:
        if self.name.endswith(".py"):
            raise InputError(f"Name the class too, as {self.name}:MyModel; got {self.name!r}.")
        if self.name not in MODELS:
            raise unknown("model", self.name, [*MODELS, "my_model.py:MyModel"])
        return MODELS[self.name]


def setting_names(constructor: Callable[..., Any]) -> list[str] | None:
    """Return the names of the settings of a model, without those of `FACTS`; None if any name is accepted.

    Args:
        constructor: a class, or a function that makes a model.
    """
    names, takes_any = accepted(constructor)
    return None if takes_any else [name for name in names if name not in FACTS]


def _add_facts(
    label: str, constructor: Callable[..., Any], settings: Mapping[str, Any], splits: _HasDataShape
) -> dict[str, Any]:
    """Return the settings, and the facts of the data (`FACTS`) that the constructor has parameters for.

    Raises:
        InputError: if the constructor requires `classes` and the data have no labels.
    """
    is_required, _ = accepted(constructor)
    complete = dict(settings)
    for name in is_required:
        value = getattr(splits, name, None) if name in FACTS else None
        if value is not None and name not in settings:
            complete[name] = value
    if is_required.get("classes") and "classes" not in complete:
        raise InputError(f"{label} needs classes: labels y in the data, whole numbers 0, 1, ... and one per datum.")
    return complete


def _call_built_in(label: str, constructor: Callable[..., Any], settings: Mapping[str, Any]) -> Any:
    """Return a built-in model; raise InputError if torch cannot make tensors of the sizes that the settings give."""
    try:
        return constructor(**settings)
    except InputError:
        raise
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        if find_user_place(error) is not None:  # the error is from a part that the user made
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        given = ", ".join(f"{name}={short_label(value)}" for name, value in settings.items())
        raise InputError(f"{label} cannot be built with {given} ({reason}). Correct these settings.") from error


def _call_user_code(path: Path, label: str, constructor: Callable[..., Any], settings: Mapping[str, Any]) -> Any:
    """Return what a user's class or function makes.

    Raises:
        InputError: for an error in the user's code, or a result that is not a latent model.
    """
    with user_errors(path, label):
        made = constructor(**settings)
    if not is_latent_model(made):
        raise InputError(f"{label} made {type(made).__name__}, which lacks model or guide. Write both methods.")
    return made


def describe_arguments(latent_model: Any) -> dict[str, Any]:
    """Return the arguments that a `LatentModel` was made with, by name, each as a plain value or a text.

    The text is the same in every process: it has no addresses. It is empty for other kinds of latent models.

    Args:
        latent_model: any object with ``model`` and ``guide``.
    """
    arguments = getattr(latent_model, "__dict__", {}).get("_pvae_arguments")
    settings = None if arguments is None else _settings_by_name(type(latent_model), latent_model, *arguments)
    return {name: describe_value(value) for name, value in (settings or {}).items()}


def describe_value(value: Any) -> Any:
    """Return a setting as a value of TOML, which has no None: None becomes the word none, and objects become texts."""
    value = without_numpy(value)
    if value is None:
        return "none"
    if isinstance(value, set | frozenset):  # their order differs between processes
        value = sorted(value, key=repr)
    if isinstance(value, list | tuple):
        return [describe_value(element) for element in value]
    if is_plain(value):
        return value
    if isinstance(value, Mapping):
        return {str(name): describe_value(element) for name, element in value.items()}
    if inspect.isroutine(value) or isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def spec_of(latent_model: Any) -> ModelSpec | None:
    """Return the recipe of an instance, from the arguments that it was made with; None if they do not determine it.

    It is None for classes that are defined in a function or in the script that runs, and for arguments other than
    numbers, texts and tuples of them.
    """
    made = type(latent_model)
    arguments = latent_model.__dict__.get("_pvae_arguments")
    if arguments is None or not _can_be_found(made):
        return None
    settings = _settings_by_name(made, latent_model, *arguments)
    if settings is None or not all(map(is_plain, settings.values())):
        return None
    name = next((name for name, constructor in MODELS.items() if constructor is made), None)
    return ModelSpec(name or f"{_home(made)}:{made.__qualname__}", settings)


def _can_be_found(made: type) -> bool:
    """Return whether a class can be found again by its module and name."""
    return "." not in made.__qualname__ and made.__module__ in sys.modules.keys() - {"__main__", "builtins"}


def _settings_by_name(
    made: type, latent_model: Any, positional: tuple[Any, ...], named: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return the arguments of a constructor by name, with the defaults of `FACTS`.

    None if they do not fit the constructor. Without the defaults, a build would take these arguments from the data.
    """
    signature = inspect.signature(made.__init__)  # type: ignore[misc]
    try:
        bound = signature.bind(latent_model, *positional, **named).arguments
    except TypeError:
        return None
    settings = dict(list(bound.items())[1:])
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            settings |= settings.pop(name, {})
    facts = {name: signature.parameters[name].default for name in FACTS if name in signature.parameters}
    defaults = {name: value for name, value in facts.items() if value is not inspect.Parameter.empty}
    return {name: without_numpy(value) for name, value in {**defaults, **settings}.items()}


def _home(made: type) -> str:
    """Return the module of a class, or its file if the module cannot be imported by name."""
    file = sys.modules[made.__module__].__file__
    # Only the import path counts: a file that was loaded as a module is in sys.modules, but no other process finds it.
    spec = importlib.machinery.PathFinder.find_spec(made.__module__.partition(".")[0])
    return made.__module__ if spec is not None or file is None else file
