"""`TrainedModel`: the methods of a run that use its model: codes, samples, reconstructions, imputations, labels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.checks import require_whole
from pvae.data.labels import HIDDEN
from pvae.errors import InputError
from pvae.models.imputation import impute
from pvae.models.posterior_values import local_codes, reconstruct
from pvae.objectives import no_density_by, untrained_by
from pvae.programs.binding import Fields, bind
from pvae.programs.classifier import classifier_of
from pvae.programs.fitting_runs import map_fitting_parts
from pvae.programs.ignored_masks import require_masks_taken
from pvae.programs.queries import has_shared_latents, inference_mode, simulate
from pvae.train.data_for_run import RunForm, data_for_run
from pvae.train.devices import isolated
from pvae.train.exported.export_run import export_run
from pvae.train.sample_conditions import require_free_x, with_conditions

__all__ = ["TrainedModel"]

#: Imputed values with fewer effective draws than this are reported as unreliable.
_FEW_DRAWS = 5


class TrainedModel:
    """The methods of `pvae.Run` that use the trained model.

    They take `Splits` (the split ``split``), a `Batch` in the units of the training, or anything that `pvae.load_data`
    accepts, such as the path of a file, a frame or an array; then all data are used in their order. Columns are put in
    the order of the training by name, and x is scaled and binarised as in the training. Results are on the CPU, in the
    units of the data. They are frames of pandas if the training data had names of columns, otherwise tensors. The
    random generators start from ``seed``, and are restored.
    """

    model: Any
    config: dict[str, Any]
    checkpoint: str

    @property
    def fields(self) -> Fields:
        """The batch fields that `pvae.fit` was given for the programs; None if their signatures name the fields."""
        return self.config.get("fields")

    def encode(
        self, data: Any, *, site: str | None = None, split: str = "test", seed: int = 0, chunk: int = 1000
    ) -> Any:
        """Return the codes of data: the guide's mean of z, and the most probable value of a site with few values.

        If a site depends on another one, its code is computed at the returned value of the other one. A code is a draw
        only if the mean has no closed form, as for a flow.

        Args:
            data: see `TrainedModel`.
            site: the latent site; by default all sites with a value for each datum, in the order of the guide.
            split: the split of `Splits`.
            seed: the seed of the draws.
            chunk: the number of data at once.

        Returns:
            Codes, shape (data, units); or a frame with columns ``z_0``, ``z_1``, ..., or ``z`` if there is one unit.

        Raises:
            InputError: if the guide is not trained or has no such site for each datum, or the data cannot be used.
        """
        self._require_trained_guide("encode")
        form = self._form()
        batch, _, index = data_for_run(form, data, split)
        parts = self._run(batch, seed, chunk, lambda part: local_codes(self.model, part, self.fields))
        names = list(parts[0])
        if not names or (site is not None and site not in names):
            known = ", ".join(names) or "none"
            raise InputError(f"Data have codes of the latent sites {known}; got site={site!r}. Name one of them.")
        chosen = names if site is None else [site]
        codes = {name: torch.cat([_flat(part[name]) for part in parts]) for name in chosen}
        columns = [
            name if code.shape[1] == 1 else f"{name}_{unit}"
            for name, code in codes.items()
            for unit in range(code.shape[1])
        ]
        values = next(iter(codes.values())) if len(codes) == 1 else torch.cat(list(codes.values()), 1)
        return form.frame(values, columns, index)

    def sample(
        self, n: int = 100, *, given: Mapping[str, Any] | None = None, mean: bool = False, seed: int = 0,
        chunk: int = 1000,
    ) -> Any:  # fmt: skip
        """Return new data: z is drawn from the prior (once for all samples if data share it), and x from p(x given z).

        Args:
            n: the number of data.
            given: the conditions of a model that has some, by field, such as ``{"y": labels}``: one for all data, or
                `n` of them. Labels are those of the training data; the name of their column may stand for ``y``.
            mean: whether to return the mean of x given z, which is less noisy than data.
            seed: the seed of the draws.
            chunk: the number of data at once.

        Returns:
            Data, shape (n, ...), in the units of the training data; or a frame with the names of their columns.

        Raises:
            InputError: if conditions are missing, unknown or not `n`, x is generated given a part of x, or draws of x
                need a density that the objective does not train.
        """
        if not mean:
            self._require_density("sample", "Use mean=True, which returns means of x given z.")
        form = self._form()
        batch = with_conditions(self.model, form, form.zeros(require_whole(n, "n")), given or {}, self.fields)

        def draw(part: Batch) -> Tensor:
            return simulate(self.model, part, self.fields, mean=mean)

        require_free_x(batch, lambda first: self._run(first, 0, 2, draw)[0])
        chunk = max(n, chunk) if has_shared_latents(self.model, batch, self.fields) else chunk
        return form.outputs(form.in_units(torch.cat(self._run(batch, seed, chunk, draw))))

    def reconstruct(self, data: Any, *, draws: int = 1, split: str = "test", seed: int = 0, chunk: int = 1000) -> Any:
        """Return the mean of p(x given z) for z from the guide, averaged over draws of z.

        Args:
            data: see `TrainedModel`.
            draws: the number of draws of z per datum.
            split: the split of `Splits`.
            seed: the seed of the draws.
            chunk: the number of data at once.

        Returns:
            Means of x in the shape of x and in the units of the data; or a frame with the names of their columns.

        Raises:
            InputError: if the guide is not trained, or the data cannot be used.
        """
        self._require_trained_guide("reconstruct")
        draws, form = require_whole(draws, "draws"), self._form()
        batch, _, index = data_for_run(form, data, split)

        def mean(part: Batch) -> Tensor:
            means = [reconstruct(self.model, part, self.fields) for _ in range(draws)]
            return means[0] if draws == 1 else torch.stack(means).double().mean(0).to(self._form().dtype)

        return form.outputs(form.in_units(torch.cat(self._run(batch, seed, chunk, mean))), index)

    def impute(
        self, data: Any, *, n: int | None = None, particles: int = 1000, split: str = "test", seed: int = 0,
        chunk: int = 1000,
    ) -> Any:  # fmt: skip
        """Return data with their missing values filled in by p(missing given observed); see `pvae.models.impute`.

        Args:
            data: see `TrainedModel`; NaN, masked values and empty cells are missing. In a `Batch` the field mask is 0
                where x is missing.
            n: None for the mean of the missing values; else the number of completed data sets with drawn missing values
                (multiple imputation).
            particles: the number of weighted draws of z per datum.
            split: the split of `Splits`.
            seed: the seed of the draws.
            chunk: the number of data at once.

        Returns:
            Data in the shape of x and in the units of the data, with observed values as they were; or a frame with the
            names of the columns. With `n`, a list of `n` of them.

        Raises:
            InputError: if the model takes no mask, the guide or p(x given z) is not trained, or the data cannot be
                used.
        """
        self._require_trained_guide("impute")
        self._require_density("impute", "Train with 'elbo', which trains a density.")
        draws = 1 if n is None else require_whole(n, "n")
        form = self._form()
        batch, exact, index = data_for_run(form, data, split, missing=True)
        if "mask" not in batch:
            batch = batch.replace(mask=torch.ones_like(batch.x))
        parts = self._run(batch, seed, chunk, lambda part: impute(self.model, part, draws, particles, self.fields))
        observed = batch["mask"].reshape(batch.x.shape).cpu() > 0
        _warn_of_few_draws(torch.cat([part.effective_sample_size for part in parts]), observed, particles)
        known = form.in_units(exact.x)

        def completed(filled: Tensor) -> Any:
            values = form.in_units(filled)
            kind = torch.promote_types(values.dtype, known.dtype)
            return form.outputs(torch.where(observed, known.to(kind), values.to(kind)), index)

        if n is None:
            return completed(torch.cat([part.mean for part in parts]))
        return [completed(torch.cat([part.draws[draw] for part in parts])) for draw in range(draws)]

    def export(self, path: str | Path, part: str | None = None) -> Path:
        """Write the encoder or decoder as a function that needs no pvae, or all parameters; a file is replaced.

        The function is compared with the model at batches of several sizes after it is loaded again.

        Args:
            path: the file. ``.pt2`` is loaded by `torch.export.load`, ``.onnx`` by an ONNX runtime (it needs
                ``pip install "pvae[onnx]"``), ``.safetensors`` by safetensors. All hold a description as JSON of the
                arguments, the outputs, and how the data of the training were scaled and named.
            part: ``"encoder"`` or ``"decoder"``; None for the parameters, in a ``.safetensors`` file.

        Returns:
            The path.

        Raises:
            InputError: if the part cannot be such a function, with the reason, or the path cannot be used.
        """
        if part == "encoder":
            self._require_trained_guide("export of an encoder")
        return export_run(self.model, self.config, self.checkpoint, path, part)

    def predict(self, data: Any, *, probabilities: bool = False, split: str = "test", chunk: int = 1000) -> Any:
        """Return the most probable label of each datum under q(y given x), or the probabilities of all labels.

        Args:
            data: see `TrainedModel`. Labels of the data are not used: they may be missing, or unknown to the model.
            probabilities: whether to return the probabilities.
            split: the split of `Splits`.
            chunk: the number of data at once.

        Returns:
            Labels, shape (data,), or probabilities, shape (data, classes), from 0 to 1. They are a series or a frame
            of pandas with the original labels if the training data had names of columns or of labels.

        Raises:
            InputError: if the model has no classifier, or the data cannot be used.
        """
        form = self._form()
        batch, _, index = data_for_run(form, data, split, labels=False)
        if "y" in self.config["data"]["fields"]:  # the programs may need the field
            batch = batch.replace(y=torch.full((batch.size,), HIDDEN))

        def classify(part: Batch) -> Tensor:
            with inference_mode(self.model, part, self.fields):
                density = classifier_of(self.model, caller="predict")(part.x)
            values = density.enumerate_support(expand=False)
            return density.log_prob(values).exp().T

        table = torch.cat(self._run(batch, 0, chunk, classify)).cpu()
        schema = form.schema
        classes = list(schema.classes) or list(range(table.shape[1]))
        best = table.argmax(1)
        if not (schema.columns or schema.classes):
            return table if probabilities else best
        import pandas as pd

        if probabilities:
            return pd.DataFrame(table.numpy(), columns=classes, index=index)
        return pd.Series([classes[int(label)] for label in best], index=index, name=schema.label or "y")

    def _form(self) -> RunForm:
        return RunForm(self.config["data"], self.config["training"]["precision"])

    def _require_trained_guide(self, use: str) -> None:
        objective = str(self.config.get("objective", ""))
        if objective and "phi" in untrained_by(objective):
            raise InputError(
                f"`{use}` needs a trained guide, and the objective {objective!r} leaves the guide untrained. Use "
                "`sample`, or train with 'ali', which trains a guide too."
            )

    def _require_density(self, use: str, advice: str) -> None:
        objective = str(self.config.get("objective", ""))
        reason = no_density_by(objective) if objective else ""
        if reason:
            raise InputError(f"`{use}` needs a density p(x given z), and {objective!r} trains none: {reason}. {advice}")

    def _run(self, batch: Batch, seed: int, chunk: int, use: Callable[[Batch], Any]) -> list[Any]:
        """Return what a function returns for each part of a batch, on the device of the model."""
        chunk, seed = require_whole(chunk, "chunk"), require_whole(seed, "seed", least=0)
        with isolated(seed), torch.no_grad():
            programs = bind(self.model, batch, self.fields)
            require_masks_taken(programs, batch)
            return map_fitting_parts(use, batch, chunk, programs.modules)


def _warn_of_few_draws(effective: Tensor, observed: Tensor, particles: int) -> None:
    """Warn if few weighted draws of z decide the missing values of a datum, which makes these values unreliable."""
    needed = min(_FEW_DRAWS, particles / 2)
    few = (effective.cpu() < needed) & ~observed.flatten(1).all(1)
    if bool(few.any()):
        warnings.warn(
            f"Fewer than {needed:g} effective draws of z decide the missing values of {int(few.sum())} of "
            f"{len(few)} data, the first at {int(few.nonzero()[0])}: their imputed values are unreliable. Raise "
            f"particles, which is {particles}, or improve the guide.",
            stacklevel=3,
        )


def _flat(code: Tensor) -> Tensor:
    """Return codes of one site, shape (data, ...), as (data, units) on the CPU."""
    return code.detach().cpu().reshape(len(code), -1)
