"""`Callback`: reactions to the start, the steps, the epochs, the end and the errors of a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from pvae.errors import InputError

__all__ = ["Callback", "as_callbacks", "call_at_start_and_error", "load_states", "reacts_to_steps", "states"]


class Callback:
    """Reacts to the start of a training, to steps and epochs, to the end and to an error. By default it does nothing.

    A training that is resumed starts again: `on_start` is called, and then `on_epoch` for each further epoch. Changes
    of the parameters in a callback are part of the training.
    """

    def on_start(self, config: Mapping[str, Any], model: Any) -> None:
        """React to the start, before the first step.

        Args:
            config: the content of ``config.toml``: all options, versions, data and model.
            model: the latent model.
        """

    def on_step(self, step: int, parameters: Mapping[str, Tensor]) -> None:
        """React to a step of the optimiser.

        Args:
            step: the number of steps so far, in all epochs.
            parameters: the trained tensors by name, after the step. Later steps change these tensors in place.
        """

    def on_epoch(self, record: Mapping[str, Any], model: Any) -> bool | None:
        """React to the end of an epoch; True ends the training.

        Args:
            record: the record of the epoch, as in ``Run.history``: ``epoch``, ``step``, ``loss``,
                ``validation_bound``, ... in nats per datum, and ``seconds``.
            model: the latent model.
        """
        return None

    def on_end(self, run: Any) -> None:
        """React to the end of a training that was not interrupted.

        Args:
            run: the `pvae.train.Run`, with the best parameters.
        """

    def on_error(self, error: BaseException) -> None:
        """React to an exception that ends the training, which may be KeyboardInterrupt.

        Args:
            error: the exception; it is raised again afterwards.
        """

    def state(self) -> dict[str, Tensor]:
        """Return tensors for the checkpoints, by name. A training that is resumed gives them to `load_state`."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take the tensors of a checkpoint, on the CPU, before `on_start` or after a return to an earlier state.

        Args:
            state: the result of `state`; empty if the checkpoint has no tensors of this callback.
        """


class _FunctionCallback(Callback):
    """A function of (record, model), which is called after each epoch."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def on_epoch(self, record: Mapping[str, Any], model: Any) -> bool | None:
        """Call the function; only the value True ends the training."""
        return self._function(record, model) is True


def as_callbacks(callbacks: Any) -> tuple[Callback, ...]:
    """Return callbacks of a list of callbacks and functions.

    Args:
        callbacks: a sequence of `Callback` and of functions of (record, model).

    Raises:
        InputError: if it is anything else.
    """
    is_sequence = isinstance(callbacks, Sequence) and not isinstance(callbacks, str)
    if not is_sequence or not all(isinstance(element, Callback) or callable(element) for element in callbacks):
        raise InputError(
            f"callbacks needs a list of functions of (record, model); got {callbacks!r}. Write callbacks=[function], "
            "or callbacks=[callback] for an object of pvae.callbacks."
        )
    for element in callbacks:
        if isinstance(element, type):
            raise InputError(
                f"callbacks needs objects, not classes; got {element.__name__}. Write {element.__name__}()."
            )
    return tuple(element if isinstance(element, Callback) else _FunctionCallback(element) for element in callbacks)


@contextmanager
def call_at_start_and_error(callbacks: Sequence[Callback], config: Mapping[str, Any], model: Any) -> Iterator[None]:
    """Call `on_start` before the block, and `on_error` if the block raises.

    Args:
        callbacks: the callbacks of a training.
        config: the content of ``config.toml``.
        model: the latent model.
    """
    started = []
    try:
        for callback in callbacks:
            started.append(callback)
            callback.on_start(config, model)
        yield
    except BaseException as error:
        for callback in started:
            callback.on_error(error)
        raise


def reacts_to_steps(callback: Callback) -> bool:
    """Return whether a callback overrides `on_step`, so that it is called after each step."""
    return type(callback).on_step is not Callback.on_step


def states(callbacks: Sequence[Callback]) -> dict[str, Tensor]:
    """Return the tensors of all callbacks for a checkpoint, by name.

    Args:
        callbacks: the callbacks of a training.
    """
    return {
        f"{_prefix(index, callback)}{name}": tensor
        for index, callback in enumerate(callbacks)
        for name, tensor in callback.state().items()
    }


def load_states(callbacks: Sequence[Callback], tensors: Mapping[str, Tensor]) -> None:
    """Give each callback its tensors of a checkpoint.

    Args:
        callbacks: the callbacks of a training, in the same order as in the training that wrote the checkpoint.
        tensors: the tensors of the checkpoint, including the tensors of `states`.
    """
    for index, callback in enumerate(callbacks):
        prefix = _prefix(index, callback)
        callback.load_state(
            {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        )


def _prefix(index: int, callback: Callback) -> str:
    return f"callback/{index}/{type(callback).__name__}/"
