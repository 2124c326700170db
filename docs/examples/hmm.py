"""Three hidden Markov models of chords: binary vectors y_t of tones, in sequences of different lengths.

    1  state_t ~ Categorical(moves[state_(t-1)])    y_t,d ~ Bernoulli(tones[state_t, d])
    2  the same states                              y_t,d ~ Bernoulli(tones[state_t, y_(t-1),d, d])
    3  also colour_t ~ Categorical(turns[colour_(t-1)])    y_t,d ~ Bernoulli(tones[colour_t, state_t, d])

Rows of the matrices of moves have Dirichlet priors, probabilities of tones have Beta priors. The states are summed out;
the matrices get point estimates.

Source: Rabiner, A Tutorial on Hidden Markov Models, Proceedings of the IEEE, 1989; for model 3 Ghahramani & Jordan,
Factorial Hidden Markov Models, Machine Learning, 1997; Pyro's example of hidden Markov models.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta

import pvae

STATES = 2
SUMMED = {"enumerate": "parallel"}
MATRICES = ["moves", "turns", "tones"]


def matrix_of_moves(name):
    """Draw a transition matrix; states prefer to stay."""
    return pyro.sample(name, dist.Dirichlet(0.9 * torch.eye(STATES) + 0.1).to_event(1))


def probabilities_of_tones(*shape):
    return pyro.sample("tones", dist.Beta(0.5, 0.9).expand(shape).to_event(len(shape)))


def going_on(t, lengths):
    return poutine.mask(mask=(t < lengths).unsqueeze(-1))


def model_1(x, lengths):
    moves, tones = matrix_of_moves("moves"), probabilities_of_tones(STATES, x.shape[2])
    tone_plate = pyro.plate("tone", x.shape[2], dim=-1)
    with pyro.plate("sequences", len(x), dim=-2):
        state = 0
        for t in pyro.markov(range(x.shape[1])):
            with going_on(t, lengths):
                state = pyro.sample(f"state_{t}", dist.Categorical(moves[state]), infer=SUMMED)
                with tone_plate:
                    pyro.sample(f"y_{t}", dist.Bernoulli(tones[state.squeeze(-1)]), obs=x[:, t])


def model_2(x, lengths):
    moves, tones = matrix_of_moves("moves"), probabilities_of_tones(STATES, 2, x.shape[2])
    tone_plate = pyro.plate("tone", x.shape[2], dim=-1)
    with pyro.plate("sequences", len(x), dim=-2):
        state, before = 0, torch.zeros(len(x), x.shape[2]).long()
        for t in pyro.markov(range(x.shape[1])):
            with going_on(t, lengths):
                state = pyro.sample(f"state_{t}", dist.Categorical(moves[state]), infer=SUMMED)
                with tone_plate as tone:
                    pyro.sample(f"y_{t}", dist.Bernoulli(tones[state, before, tone]), obs=x[:, t])
                before = x[:, t].long()


def model_3(x, lengths):
    moves, turns = matrix_of_moves("moves"), matrix_of_moves("turns")
    tones = probabilities_of_tones(STATES, STATES, x.shape[2])
    tone_plate = pyro.plate("tone", x.shape[2], dim=-1)
    with pyro.plate("sequences", len(x), dim=-2):
        state, colour = 0, 0
        for t in pyro.markov(range(x.shape[1])):
            with going_on(t, lengths):
                colour = pyro.sample(f"colour_{t}", dist.Categorical(turns[colour]), infer=SUMMED)
                state = pyro.sample(f"state_{t}", dist.Categorical(moves[state]), infer=SUMMED)
                with tone_plate as tone:
                    pyro.sample(f"y_{t}", dist.Bernoulli(tones[colour, state, tone]), obs=x[:, t])


MODELS = {1: model_1, 2: model_2, 3: model_3}


def make_guide(number, autoguide=AutoDelta):
    """Return a guide of the matrices: AutoDelta gives point estimates, AutoNormal a density."""
    return autoguide(poutine.block(MODELS[number], expose=MATRICES))


def make(number=1, autoguide=AutoDelta):
    return pvae.pair(MODELS[number], make_guide(number, autoguide))


def at(number, estimates):
    """Return a model with its matrices at the estimates: all other latent sites are summed out."""
    fixed = poutine.block(poutine.condition(MODELS[number], data=estimates), hide=MATRICES)
    return pvae.pair(fixed, lambda x, lengths: None)


def make_data(size=20, time=4, tones=3, seed=0):
    """Return chords that hold on for some steps; entries after the end of a sequence are 0 and not used."""
    generator = torch.Generator().manual_seed(seed)
    changes = torch.rand(size, time, generator=generator) < 0.3
    chord = changes.cumsum(1) % 2
    likely = torch.where(torch.arange(tones) % 2 == chord.unsqueeze(-1), 0.9, 0.2)
    lengths = torch.randint(time // 2, time + 1, (size,), generator=generator)
    going = (torch.arange(time) < lengths.unsqueeze(-1)).unsqueeze(-1)
    return {"x": torch.bernoulli(likely, generator=generator) * going, "lengths": lengths}


def main():
    pyro.set_rng_seed(0)
    data = make_data(size=100, time=8)
    for number, model in MODELS.items():
        pyro.clear_param_store()
        guide = make_guide(number)
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), loss=TraceEnum_ELBO(max_plate_nesting=2))
        for _ in range(50):
            svi.step(data["x"], data["lengths"])
        estimates = {name: value.detach() for name, value in guide.median().items()}
        evidence = pvae.evaluate.log_evidence(at(number, estimates), data)
        print(f"model {number}: log evidence of a sequence at the estimates {evidence}")


if __name__ == "__main__":
    main()
