"""Chains of summed-out states: log weights against the forward algorithm, with plates, masks, scales and gradients."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import config_enumerate
from pyro.ops.indexing import Vindex
from torch import Tensor

from pvae import Batch, InputError, log_weights, pair
from pvae.weights import LogWeights

STATES, LENGTH, DATA = 3, 7, 4
SUMMED: Any = {"enumerate": "parallel"}


def normal(loc: Any, scale: float) -> Any:
    """Return a Normal in float64; Pyro makes one of two numbers in float32."""
    return dist.Normal(torch.as_tensor(loc, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64))


class Chain:
    """z ~ Normal(0, 0.5); states of a Markov chain; x_t ~ Normal(means[state_t] + z, 1), for t < length."""

    def __init__(self, history: int = 1, lengths: Tensor | None = None, size: int = DATA) -> None:
        generator = torch.Generator().manual_seed(3)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.first, self.moves = random(STATES).softmax(-1), random(STATES, STATES).softmax(-1)
        self.means = random(STATES).requires_grad_()
        self.history, self.lengths, self.size = history, lengths, size
        self.x = random(DATA, LENGTH)

    def steps(self) -> Any:
        """The time steps, in a window of `history` steps; all visible if it is 0."""
        return pyro.markov(range(LENGTH), history=self.history) if self.history else range(LENGTH)

    def observe(self, t: int, state: Tensor, z: Tensor, x: Tensor) -> None:
        """Observe step t."""
        pyro.sample(f"x_{t}", normal(self.means[state] + z, 1.0), obs=x[:, t])

    def model(self, x: Tensor) -> None:
        """Draw z, and let the chain be summed out."""
        with pyro.plate("data", self.size, subsample=torch.arange(len(x))):
            z = pyro.sample("z", normal(torch.zeros(len(x), dtype=x.dtype), 0.5))
            state: Any = None
            for t in self.steps():
                rows = self.first if state is None else self.moves[state]
                seen: Any = True if self.lengths is None else t < self.lengths
                with pyro.poutine.mask(mask=seen):
                    state = pyro.sample(f"state_{t}", dist.Categorical(rows), infer=SUMMED)
                    self.observe(t, state, z, x)

    def guide(self, x: Tensor) -> None:
        """Draw z alone."""
        with pyro.plate("data", self.size, subsample=torch.arange(len(x))):
            pyro.sample("z", normal(x.mean(-1) / 4, 0.4))

    def forward_algorithm(self, z: Tensor) -> Tensor:
        """Return log p(x given z), shape (particles, data), for z of this shape."""
        scores = normal(self.means + z[..., None, None], 1.0).log_prob(self.x[..., None])
        total = self.first.log() + scores[..., 0, :]
        for t in range(1, LENGTH):
            after = torch.logsumexp(total.unsqueeze(-1) + self.moves.log(), -2) + scores[..., t, :]
            total = after if self.lengths is None else torch.where((t < self.lengths)[:, None], after, total)
        return torch.logsumexp(total, -1)

    def exact(self, weights: LogWeights) -> Tensor:
        """Return the log weights of the drawn z, shape (particles, data)."""
        z = weights.values["z"].detach()
        log_q = normal(self.x.mean(-1) / 4, 0.4).log_prob(z)
        return normal(0.0, 0.5).log_prob(z) + self.forward_algorithm(z) - log_q


class StatesInTheGuide(Chain):
    """The guide has the chain too, marked, with a q of its own."""

    def guide(self, x: Tensor) -> None:
        """Draw z, and let the chain be summed out."""
        with pyro.plate("data", self.size, subsample=torch.arange(len(x))):
            pyro.sample("z", normal(x.mean(-1) / 4, 0.4))
            state: Any = None
            for t in self.steps():
                rows = self.moves[0] if state is None else self.moves.T.softmax(-1)[state]
                state = pyro.sample(f"state_{t}", dist.Categorical(rows), infer=SUMMED)


def weights_of(chain: Any, particles: int = 3) -> LogWeights:
    """Return the log weights of a chain on its data."""
    pyro.set_rng_seed(0)
    return log_weights(pair(chain.model, chain.guide), Batch(x=chain.x), particles)


CHAINS: dict[str, Callable[[], Chain]] = {
    "a window of one step": Chain,
    "a window of two steps": lambda: Chain(history=2),
    "no window": lambda: Chain(history=0),
    "sequences of different lengths": lambda: Chain(lengths=torch.tensor([7, 1, 4, 6])),
    "a tenth of the data": lambda: Chain(size=10 * DATA),
    "states in the guide": StatesInTheGuide,
    "states in the guide, no window": lambda: StatesInTheGuide(history=0),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("particles", [1, 3])
def test_weights_and_gradients_are_those_of_the_forward_algorithm(name: str, particles: int) -> None:
    chain = CHAINS[name]()
    weights = weights_of(chain, particles)
    exact = chain.exact(weights)
    torch.testing.assert_close(weights.log_w, exact, rtol=0, atol=1e-11)
    assert (weights.scale, weights.count) == (chain.size / DATA, chain.size)
    (found,) = torch.autograd.grad(weights.log_w.sum(), chain.means)
    (expected,) = torch.autograd.grad(exact.sum(), chain.means)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_a_chain_of_a_thousand_entries_of_evidence_keeps_the_less_likely_states() -> None:
    """Two observations far apart leave states that differ by thousands of nats, one way and then the other."""
    chain = Chain()
    chain.x = chain.x.clone()
    chain.x[:, 0], chain.x[:, 1] = 2000.0, -2000.0
    weights = weights_of(chain)
    torch.testing.assert_close(weights.log_w, chain.exact(weights), rtol=1e-13, atol=0)


class Tones(Chain):
    """Each step has three tones in a plate inside that of the data, and a summed-out note for each tone."""

    NOTES = torch.tensor([0.3, 0.7], dtype=torch.float64)

    def __init__(self) -> None:
        super().__init__()
        self.x = torch.randn(DATA, LENGTH, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def model(self, x: Tensor) -> None:
        """Let states and notes be summed out."""
        tones = pyro.plate("tones", 3, dim=-1)
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", normal(torch.zeros(len(x), 1, dtype=x.dtype), 0.5))
            state: Any = None
            for t in self.steps():
                rows = self.first if state is None else self.moves[state]
                state = pyro.sample(f"state_{t}", dist.Categorical(rows), infer=SUMMED)
                with tones:
                    note = pyro.sample(f"note_{t}", dist.Bernoulli(self.NOTES[1]), infer=SUMMED)
                    pyro.sample(f"x_{t}", normal(self.means[state] + z + note, 1.0), obs=x[:, t])

    def guide(self, x: Tensor) -> None:
        """Draw z alone."""
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", normal(torch.zeros(len(x), 1, dtype=x.dtype), 0.4))

    def exact(self, weights: LogWeights) -> Tensor:
        """Return the log weights of the drawn z, shape (particles, data)."""
        z = weights.values["z"].detach().squeeze(-1)
        loc = self.means[:, None, None] + z[..., None, None, None, None] + torch.arange(2)
        by_note = normal(loc, 1.0).log_prob(self.x[:, :, None, :, None]) + self.NOTES.log()
        scores = by_note.logsumexp(-1).sum(-1)
        total = self.first.log() + scores[..., 0, :]
        for t in range(1, LENGTH):
            total = torch.logsumexp(total.unsqueeze(-1) + self.moves.log(), -2) + scores[..., t, :]
        return normal(0.0, 0.5).log_prob(z) + total.logsumexp(-1) - normal(0.0, 0.4).log_prob(z)


def test_a_plate_inside_the_chain_multiplies_its_sums() -> None:
    tones = Tones()
    weights = weights_of(tones)
    torch.testing.assert_close(weights.log_w, tones.exact(weights), rtol=0, atol=1e-11)


class Skipping(Chain):
    """Each observation depends on the state two steps before."""

    def model(self, x: Tensor) -> None:
        """Let the states be summed out."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(torch.zeros(len(x), dtype=x.dtype), 0.5))
            states: list[Tensor] = []
            for t in self.steps():
                states.append(pyro.sample(f"state_{t}", dist.Categorical(self.first), infer=SUMMED))
                before = states[max(0, t - 2)]
                pyro.sample(f"x_{t}", normal(self.means[states[t]] * self.means[before] + z, 1.0), obs=x[:, t])

    guide = Chain.guide


def test_a_site_outside_the_window_of_its_chain_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"'x_2' depends on a site that has left the window.*'state_0'.*history"):
        weights_of(Skipping(history=1))
    wide, whole = weights_of(Skipping(history=2)), weights_of(Skipping(history=0))
    torch.testing.assert_close(wide.log_w, whole.log_w, rtol=0, atol=1e-11)


def test_too_many_sites_without_a_window_are_told_of_markov() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            for t in range(70):
                pyro.sample(f"b_{t}", dist.Bernoulli(torch.tensor(0.5)), infer=SUMMED)
            pyro.sample("x", normal(0.0, 1.0), obs=x)

    with pytest.raises(InputError, match=r"'b_\d+' is enumerated site \d+\. Write a chain as .*pyro\.markov"):
        log_weights(pair(model, lambda x: None), Batch(x=torch.zeros(2)), 1)


def test_values_may_be_expanded_as_the_program_asks() -> None:
    chain = Chain()
    looked_up: list[torch.Size] = []

    def observe(t: int, state: Tensor, z: Tensor, x: Tensor) -> None:
        looked_up.append(state.shape)
        means = self_means.expand(DATA, STATES)
        pyro.sample(f"x_{t}", normal(Vindex(means)[torch.arange(DATA), state] + z, 1.0), obs=x[:, t])

    self_means = chain.means
    chain.observe = observe  # type: ignore[method-assign]
    expanded = config_enumerate(chain.model, expand=True)
    pyro.set_rng_seed(0)
    weights = log_weights(pair(expanded, chain.guide), Batch(x=chain.x), 2)
    torch.testing.assert_close(weights.log_w, chain.exact(weights), rtol=0, atol=1e-11)


class Stacked(Chain):
    """The mean of each observation is a function of all states together."""

    def model(self, x: Tensor) -> None:
        """Let thirty states be summed out, whose joint values are more than any memory holds."""
        with pyro.plate("data", len(x)):
            states = [pyro.sample(f"s_{t}", dist.Categorical(self.first), infer=SUMMED) for t in range(30)]
            joint = torch.stack(torch.broadcast_tensors(*states), -1)
            pyro.sample("x", normal(joint.sum(-1), 1.0), obs=x[:, 0])

    def guide(self, x: Tensor) -> None:
        """Draw nothing."""


class SeenByOne(Stacked):
    """One observation depends on all states by its log-density alone."""

    def model(self, x: Tensor) -> None:
        """Let thirty states be summed out, of which the observations see all, two at a time."""
        with pyro.plate("data", len(x)):
            states = [pyro.sample(f"s_{t}", dist.Categorical(self.first), infer=SUMMED) for t in range(30)]
            for t, u in itertools.combinations(range(30), 2):
                pyro.sample(f"x_{t}_{u}", normal(states[t] * states[u], 1.0), obs=x[:, 0])


@pytest.mark.parametrize("program", [Stacked, SeenByOne])
def test_a_table_of_all_joint_values_is_refused_before_it_is_made(program: type[Stacked]) -> None:
    with pytest.raises(InputError, match=r"joint values.*[TGM]B are free.*pyro\.markov") as caught:
        weights_of(program())
    assert "'s_0', 's_1'" in str(caught.value)
