"""`LatentModel`: two Pyro programs, `model` and `guide`, over the same batch; `Program`: one program as a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Self

from pyro import poutine
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.messenger import Messenger, unwrap
from torch import Tensor, nn

from pvae.errors import InputError
from pvae.programs.held_modules import find_held_modules
from pvae.programs.registration import Registration, forget_weak_references, name_by_path, registered
from pvae.programs.sites import is_observation

__all__ = ["LatentModel", "Program", "pair", "program"]


class LatentModel(nn.Module):
    """A generative model and its amortised encoder, as two Pyro programs over the same batch fields.

    Subclass it, build networks in ``__init__`` and write ``model`` and ``guide``. Each run of a program registers the
    parameters with Pyro by identity. Therefore `pyro.infer.SVI` and pvae both train them, two instances never share
    parameters, and parameters of copies, replaced submodules and loaded states are trained too.

    Example:
        >>> import pvae, pyro, torch
        >>> from pyro.distributions import Normal
        >>> class Line(pvae.LatentModel):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.slope = torch.nn.Parameter(torch.tensor(0.5))
        ...     def model(self, x):
        ...         with pyro.plate("data", len(x)):
        ...             pyro.sample("x", Normal(pyro.sample("z", Normal(0.0, 1.0)), 1.0), obs=x)
        ...     def guide(self, x):
        ...         with pyro.plate("data", len(x)):
        ...             pyro.sample("z", Normal(self.slope * x, 0.5**0.5))
        >>> log_w = pvae.log_weights(Line(), torch.tensor([1.0]), particles=2).log_w
        >>> [f"{weight:.3f}" for weight in log_w.flatten()]  # the guide is the posterior: each weight is log p(x)
        ['-1.516', '-1.516']
    """

    #: the default objective of trainings, as text
    default_objective: str = "elbo"

    #: whether PyroModules inside are named by their path, as inside a PyroModule; a pair changes no name
    _pvae_names_submodules: bool = True

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Make an instance that stores its arguments, so that a run can record how to build it again."""
        instance = super().__new__(cls)
        instance.__dict__["_pvae_arguments"] = (args, kwargs)
        return instance

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("model", "guide"):
            method = cls.__dict__.get(name)
            if callable(method) and not getattr(method, "__pvae_registered__", False):
                setattr(cls, name, registered(method))

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if self._pvae_names_submodules and isinstance(value, nn.Module):
            name_by_path(self)

    def __getstate__(self) -> dict[str, Any]:
        forget_weak_references(self)
        return {key: value for key, value in self.__dict__.items() if key != "_pvae_entered"}

    def theta(self) -> list[nn.Parameter]:
        """Return the parameters of the model; declare them by overriding this method together with `phi`.

        Raises:
            InputError: if they are not declared. `pvae.models.find_groups` then finds them from a batch.
        """
        raise InputError(
            f"{type(self).__name__} declares no theta(). Override theta() and phi(), or find the groups with "
            "pvae.models.find_groups(model, [batch])."
        )

    def phi(self) -> list[nn.Parameter]:
        """Return the parameters of the guide; declare them by overriding this method together with `theta`.

        Raises:
            InputError: if they are not declared. `pvae.models.find_groups` then finds them from a batch.
        """
        raise InputError(
            f"{type(self).__name__} declares no phi(). Override theta() and phi(), or find the groups with "
            "pvae.models.find_groups(model, [batch])."
        )

    def initialise_from(self, batch: Mapping[str, Tensor]) -> None:
        """Initialise parameters from the training data, for instance an output bias; by default, do nothing.

        `pvae.fit` calls this once, before a new training.

        Args:
            batch: the training data.
        """


class _KeepPriors(Messenger):
    """Keeps the prior that a `GuideMessenger` writes into ``infer``, which a replay would replace."""

    def __init__(self) -> None:
        super().__init__()
        self.priors: dict[str, Any] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if "prior" in msg["infer"]:
            self.priors[msg["name"]] = msg["infer"]["prior"]

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.priors:
            msg["infer"] = {**msg["infer"], "prior": self.priors.pop(msg["name"])}


class Program(nn.Module):
    """A Pyro program that contains its owner, so that ``parameters()`` is complete.

    Args:
        function: a callable with Pyro statements: a function, a bound method, a module, or a handler around one.
        owner: the module that holds the parameters; by default the object of a bound method, or the module itself.

    Attributes:
        held: other modules that the function uses, by the names of their variables, such as those of ``pyro.module``.
    """

    held: dict[str, nn.Module]

    def __init__(self, function: Callable[..., Any], owner: nn.Module | None = None) -> None:
        super().__init__()
        inner: Any = unwrap(function)
        if owner is None:
            candidate = inner if isinstance(inner, nn.Module) else getattr(inner, "__self__", None)
            owner = candidate if isinstance(candidate, nn.Module) else None
        self.owner = owner
        self.is_handler = isinstance(inner, GuideMessenger)
        # not as submodules either: the program registers the parameters that are trained
        self.__dict__["held"] = find_held_modules(function, owner)
        self.registers = self.owner is not None and not getattr(inner, "__pvae_registered__", False)
        # not as a submodule, because the parameters of the owner would appear twice
        object.__setattr__(self, "function", function)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program, with the owner's parameters registered by identity."""
        adapted = self._adapted() if self.is_handler else nullcontext()
        with self._registration() if self.registers else nullcontext(), adapted:
            return self.function(*args, **kwargs)  # type: ignore[operator]

    @contextmanager
    def _adapted(self) -> Iterator[None]:
        """Adapt a `GuideMessenger` of Pyro, a guide that runs the whole model: its observed sites are not part of q.

        A `GuideMessenger` stores the trace of its last run. That trace is restored after the block.
        """
        guide: Any = unwrap(self.function)  # type: ignore[arg-type]
        former = vars(guide).get("trace", poutine.Trace())
        try:
            with poutine.block(hide_fn=is_observation), _KeepPriors():
                yield
        finally:
            guide.trace = former

    def _registration(self) -> Registration:
        inner: Any = unwrap(self.function)  # type: ignore[arg-type]
        running = inner if isinstance(inner, nn.Module) else getattr(inner, "__self__", None)
        return Registration(self.owner, running if isinstance(running, nn.Module) else None)  # type: ignore[arg-type]


def program(latent_model: Any, name: str) -> Program:
    """Return ``latent_model.model`` or ``.guide`` as a module, so that its ``parameters()`` are complete.

    Use it with Pyro's own objectives: ``Trace_ELBO()(pvae.program(m, "model"), pvae.program(m, "guide"))``.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        name: ``"model"`` or ``"guide"``.

    Raises:
        InputError: if the latent model has no such program.

    Example:
        >>> import pvae, torch
        >>> from pyro.infer import Trace_ELBO
        >>> model = pvae.VAE(4, latent=2, hidden=8)
        >>> loss = Trace_ELBO()(pvae.program(model, "model"), pvae.program(model, "guide"))
        >>> len(list(loss.parameters())) == len(list(model.parameters()))
        True
    """
    function = getattr(latent_model, name, None)
    if not callable(function):
        raise InputError(
            f"A latent model needs a callable {name!r}; {type(latent_model).__name__} has none. Write a method {name}."
        )
    return Program(function, latent_model if isinstance(latent_model, nn.Module) else None)


class _Pair(LatentModel):
    """A latent model of two callables.

    The modules with their parameters are its submodules ``model`` and ``guide``, like in Pyro's `ELBOModule`.
    """

    _pvae_names_submodules = False

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        fields: Sequence[str] | Mapping[str, str] | None,
    ) -> None:
        super().__init__()
        self.fields = fields
        self._functions = (model, guide)
        for name, function in (("model", model), ("guide", guide)):
            owner = Program(function).owner
            if owner is not None:
                self._modules[name] = owner

    def __getattr__(self, name: str) -> Any:
        # the callables themselves, because `bind` reads their signatures, and Pyro their handlers
        if name in ("model", "guide"):
            return self.__dict__["_functions"][name == "guide"]
        return super().__getattr__(name)


def pair(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    fields: Sequence[str] | Mapping[str, str] | None = None,
) -> LatentModel:
    """Make a latent model of two Pyro functions.

    Args:
        model: the generative program p(x, z).
        guide: the program q(z given x), with the same sample sites except the observed ones; it may be an autoguide.
        fields: the batch fields for the positional parameters, or a mapping from parameter to field. By default each
            parameter takes the field of its name, and the first one takes ``x``.

    Raises:
        InputError: if one is not callable.

    Example:
        >>> import pvae, pyro, torch
        >>> from pyro.distributions import Normal
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", Normal(pyro.sample("z", Normal(0.0, 1.0)), 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", Normal(x / 2, 0.5**0.5))
        >>> weights = pvae.log_weights(pvae.pair(model, guide), torch.tensor([1.0]), particles=2)
        >>> weights.log_w.flatten()  # the guide is the posterior: each weight is log p(x)
        tensor([-1.5155, -1.5155])
    """
    for name, function in (("model", model), ("guide", guide)):
        if not callable(function):
            raise InputError(
                f"pair needs two callables; {name} is {type(function).__name__}. Give a function or a module."
            )
    return _Pair(model, guide, fields)
