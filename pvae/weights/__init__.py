"""Log weights: log p(x, z) and log q(z given x), per particle and per datum, from one pair of traces.

Every objective and every evaluation uses them. The weights are unscaled; the scale of a subsampled plate is kept
separately. It belongs outside a logarithm of a mean; inside it, the result is not a bound.
"""

from pvae.weights.base import LogWeights, log_mean_exp
from pvae.weights.compute import branch, log_weights, trace_weights

__all__ = ["LogWeights", "branch", "log_mean_exp", "log_weights", "trace_weights"]
