"""A user's script: what editors and type checkers say about it."""

from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pvae
from pvae.evaluate import Estimate


class Mine(pvae.LatentModel):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = torch.nn.Linear(2, 64)

    def model(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)
        return z

    def guide(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))


data = pvae.load_data("digits")
x: Tensor = data.test["x"]
run: pvae.Run = pvae.fit(Mine(), data, objective=pvae.IWAE(particles=8), epochs=1, out=Path("runs/mine"))
estimate: Estimate = pvae.evaluate.log_evidence(run, particles=100)
value: float = estimate.value + float(estimate - 1.0)
better: bool = estimate > pvae.evaluate.elbo(run)
run.plot.samples().savefig("samples.png")
losses: list[float] = [record["loss"] for record in run.history]
table = pvae.compare("vae", data, objectives=["elbo"], seeds=2).table
rows: int = len(table.rows)

# Type checkers refuse these lines: without an error, the comment would be unnecessary, which is an error too.
pvae.fit(3, data)  # type: ignore
pvae.fit("vae", data, epochs="many")  # type: ignore
pvae.evaluate.log_evidence(3)  # type: ignore
pvae.evaluate.log_evidence(run, particles="many")  # type: ignore
wrong: str = pvae.evaluate.elbo(run).value  # type: ignore
wrong = run.plot.samples()  # type: ignore
