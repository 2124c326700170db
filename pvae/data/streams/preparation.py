"""`Preparation`: the changes of the arrays of each part of stored data after it was read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from pvae.data.channels import with_channels_first
from pvae.data.nan_to_mask import masked
from pvae.errors import InputError

__all__ = ["PLAIN", "Preparation"]


@dataclass(frozen=True)
class Preparation:
    """Changes the arrays of each part that is read.

    Args:
        channels: the position of the channels of pictures, as for `load_data`.
        missing: whether NaN is a missing value.
        checks_labels: whether labels must be numbers from 0 on, because they have not been numbered before.
        drops_labels: whether labels are left out.
    """

    channels: str = "auto"
    missing: bool = False
    checks_labels: bool = False
    drops_labels: bool = False

    def __call__(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the arrays of a part as the fields of a batch.

        Args:
            fields: the arrays by name, as read.

        Raises:
            InputError: if labels are negative, and -1 is not declared as a hidden label.
        """
        turned, _ = with_channels_first(fields, self.channels)
        if self.drops_labels:
            turned.pop("y", None)
        if self.checks_labels:
            _check_labels(turned.get("y"), hidden_allowed=self.missing)
        if not self.missing:
            return turned
        result = masked(turned, only_x=True)
        if "mask" not in result:  # each part needs the same fields, with or without missing values
            result["mask"] = np.ones(np.shape(result["x"]), dtype=np.float32)
        return result


def _check_labels(y: Any, *, hidden_allowed: bool) -> None:
    """Raise InputError for negative labels, unless -1 is declared as a hidden label."""
    values = y.numpy() if isinstance(y, Tensor) else y
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iu" or values.ndim != 1 or not values.size:
        return
    least = int(values.min())
    if least < -1 or (least == -1 and not hidden_allowed):
        raise InputError(
            f"Labels y need to be 0, 1, ...; got {least}. Number the labels in the data set; or use missing='mask' if "
            "-1 is a hidden label."
        )


#: The default: channels that are last become first, and missing values are errors.
PLAIN = Preparation()
