"""NumPyro's step of the network of `step.py`, in an environment of its own; `step.py --numpyro` starts this script.

It reads a number of steps from a line, takes them by `lax.scan`, and prints the CPU seconds for each. It needs the
package numpyro.
"""

from __future__ import annotations

import math
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax, random
from numpyro.infer import SVI, RenyiELBO, Trace_ELBO

BATCH = 128


def layers(features: list[int], key: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """Weights and biases of a multilayer perceptron."""
    keys = random.split(key, len(features))
    return [
        (random.normal(key, (rows, columns)) / math.sqrt(rows), jnp.zeros(columns))
        for key, rows, columns in zip(keys, features[:-1], features[1:], strict=False)
    ]


def network(parameters: list[tuple[jax.Array, jax.Array]], x: jax.Array) -> jax.Array:
    """The perceptron with ReLU between its layers."""
    for weight, bias in parameters[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = parameters[-1]
    return x @ weight + bias


def model(batch: jax.Array, latent: int, encoder: object, decoder: object) -> None:
    """log p(x, z)."""
    parameters = numpyro.param("decoder", decoder)
    with numpyro.plate("data", len(batch)):
        z = numpyro.sample("z", dist.Normal(jnp.zeros(latent), 1.0).to_event(1))
        numpyro.sample("x", dist.Bernoulli(logits=network(parameters, z)).to_event(1), obs=batch)


def guide(batch: jax.Array, latent: int, encoder: object, decoder: object) -> None:
    """log q(z given x)."""
    loc, log_scale = jnp.split(network(numpyro.param("encoder", encoder), batch), 2, -1)
    with numpyro.plate("data", len(batch)):
        numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))


def main() -> None:
    """Answer each line with the CPU seconds of a step."""
    features, hidden, latent, particles = map(int, sys.argv[1:5])
    encoder = layers([features, hidden, 2 * latent], random.PRNGKey(0))
    decoder = layers([latent, hidden, features], random.PRNGKey(1))
    batch = jnp.asarray(np.random.default_rng(0).random((BATCH, features)).round(), jnp.float32)
    loss = Trace_ELBO() if particles == 1 else RenyiELBO(alpha=0.0, num_particles=particles)
    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), loss, latent=latent, encoder=encoder, decoder=decoder)
    state = svi.init(random.PRNGKey(2), batch)

    def scan(state: object, steps: int) -> object:
        return lax.scan(lambda state, _: svi.update(state, batch), state, None, length=steps)[0]

    compiled = jax.jit(scan, static_argnums=1)
    for line in sys.stdin:
        steps = int(line)
        state = jax.block_until_ready(compiled(state, steps))  # compiles for a new number of steps
        begun = time.process_time()
        state = jax.block_until_ready(compiled(state, steps))
        print((time.process_time() - begun) / steps, flush=True)


if __name__ == "__main__":
    main()
