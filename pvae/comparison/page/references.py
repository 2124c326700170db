"""The papers behind models, objectives and estimates, as BibTeX."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Publication", "references_of"]


@dataclass(frozen=True)
class Publication:
    """A paper.

    Attributes:
        key: its key in BibTeX.
        authors: authors in the form of BibTeX.
        title: its title.
        year: year of the publication.
        where: ``"arXiv:NUMBER"``, or the journal or conference.
    """

    key: str
    authors: str
    title: str
    year: int
    where: str

    def to_bibtex(self) -> str:
        """Return the entry of BibTeX."""
        fields = {"author": self.authors, "title": f"{{{self.title}}}", "year": str(self.year)}
        if self.where.startswith("arXiv:"):
            fields |= {"eprint": self.where.removeprefix("arXiv:"), "archiveprefix": "arXiv"}
        else:
            fields["howpublished"] = self.where
        lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
        return f"@misc{{{self.key},\n{lines}\n}}"


_TIGHTER = Publication(
    "rainforth2018tighter",
    "Rainforth, Tom and others",
    "Tighter Variational Bounds are Not Necessarily Better",
    2018,
    "arXiv:1802.04537",
)
_DOUBLY = Publication(
    "tucker2019doubly",
    "Tucker, George and Lawson, Dieterich and Gu, Shixiang and Maddison, Chris J.",
    "Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives",
    2019,
    "arXiv:1810.04152",
)
_SEMI = Publication(
    "kingma2014semi",
    "Kingma, Diederik P. and Rezende, Danilo J. and Mohamed, Shakir and Welling, Max",
    "Semi-supervised Learning with Deep Generative Models",
    2014,
    "arXiv:1406.5298",
)
_CODES = Publication(
    "oord2017neural",
    "van den Oord, Aaron and Vinyals, Oriol and Kavukcuoglu, Koray",
    "Neural Discrete Representation Learning",
    2017,
    "arXiv:1711.00937",
)
_VAE = Publication(
    "kingma2013auto", "Kingma, Diederik P. and Welling, Max", "Auto-Encoding Variational Bayes", 2013, "arXiv:1312.6114"
)
_JOINT = Publication(
    "dupont2018jointvae",
    "Dupont, Emilien",
    "Learning Disentangled Joint Continuous and Discrete Representations",
    2018,
    "arXiv:1804.00104",
)
_MULTIMODAL = Publication(
    "wu2018mvae",
    "Wu, Mike and Goodman, Noah",
    "Multimodal Generative Models for Scalable Weakly-Supervised Learning",
    2018,
    "arXiv:1802.05335",
)
_IWAE = Publication(
    "burda2015importance",
    "Burda, Yuri and Grosse, Roger and Salakhutdinov, Ruslan",
    "Importance Weighted Autoencoders",
    2015,
    "arXiv:1509.00519",
)
_PYRO = Publication(
    "bingham2019pyro",
    "Bingham, Eli and others",
    "Pyro: Deep Universal Probabilistic Programming",
    2019,
    "Journal of Machine Learning Research 20",
)
_KHAT = Publication(
    "vehtari2024pareto",
    "Vehtari, Aki and Simpson, Daniel and Gelman, Andrew and Yao, Yuling and Gabry, Jonah",
    "Pareto Smoothed Importance Sampling",
    2024,
    "Journal of Machine Learning Research 25",
)

# The papers of names on the command line; other names have no paper.
_BY_NAME = {
    "vae": _VAE,
    "ssvae": _SEMI,
    "semi-supervised": _SEMI,
    "vqvae": _CODES,
    "vq": _CODES,
    "gmvae": Publication(
        "jiang2017vade", "Jiang, Zhuxi and others", "Variational Deep Embedding", 2017, "arXiv:1611.05148"
    ),
    "ladder-vae": Publication(
        "sonderby2016ladder",
        "Sonderby, Casper K. and others",
        "Ladder Variational Autoencoders",
        2016,
        "arXiv:1602.02282",
    ),
    "air": Publication(
        "eslami2016attend",
        "Eslami, S. M. Ali and others",
        "Attend, Infer, Repeat: Fast Scene Understanding with Generative Models",
        2016,
        "arXiv:1603.08575",
    ),
    "prodlda": Publication(
        "srivastava2017autoencoding",
        "Srivastava, Akash and Sutton, Charles",
        "Autoencoding Variational Inference For Topic Models",
        2017,
        "arXiv:1703.01488",
    ),
    "sequence-vae": Publication(
        "krishnan2017structured",
        "Krishnan, Rahul G. and Shalit, Uri and Sontag, David",
        "Structured Inference Networks for Nonlinear State Space Models",
        2017,
        "arXiv:1609.09869",
    ),
    "masked-vae": Publication(
        "mattei2019miwae", "Mattei, Pierre-Alexandre and Frellsen, Jes", "MIWAE", 2019, "arXiv:1812.02633"
    ),
    "joint-vae": _JOINT,
    "joint-capacity": _JOINT,
    "multimodal-vae": _MULTIMODAL,
    "subsampled-elbo": _MULTIMODAL,
    "stratified-iwae": Publication(
        "shi2019mmvae",
        "Shi, Yuge and others",
        "Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models",
        2019,
        "arXiv:1911.03393",
    ),
    "iwae": _IWAE,
    "renyi": Publication(
        "li2016renyi",
        "Li, Yingzhen and Turner, Richard E.",
        "Renyi Divergence Variational Inference",
        2016,
        "arXiv:1602.02311",
    ),
    "miwae": _TIGHTER,
    "ciwae": _TIGHTER,
    "piwae": _TIGHTER,
    "dreg": _DOUBLY,
    "stl": Publication(
        "roeder2017sticking",
        "Roeder, Geoffrey and Wu, Yuhuai and Duvenaud, David",
        "Sticking the Landing",
        2017,
        "arXiv:1703.09194",
    ),
    "vimco": Publication(
        "mnih2016vimco",
        "Mnih, Andriy and Rezende, Danilo J.",
        "Variational Inference for Monte Carlo Objectives",
        2016,
        "arXiv:1602.06725",
    ),
    "tvo": Publication(
        "masrani2019thermodynamic",
        "Masrani, Vaden and Le, Tuan Anh and Wood, Frank",
        "The Thermodynamic Variational Objective",
        2019,
        "arXiv:1907.00031",
    ),
    "beta": Publication("higgins2017beta", "Higgins, Irina and others", "beta-VAE", 2017, "ICLR 2017"),
    "free-bits": Publication(
        "kingma2016improved",
        "Kingma, Diederik P. and others",
        "Improving Variational Inference with Inverse Autoregressive Flow",
        2016,
        "arXiv:1606.04934",
    ),
    "geco": Publication(
        "rezende2018taming", "Rezende, Danilo J. and Viola, Fabio", "Taming VAEs", 2018, "arXiv:1810.00597"
    ),
    "log-variance": Publication(
        "richter2020vargrad", "Richter, Lorenz and others", "VarGrad", 2020, "arXiv:2010.10436"
    ),
    "info-mmd": Publication(
        "zhao2017infovae", "Zhao, Shengjia and Song, Jiaming and Ermon, Stefano", "InfoVAE", 2017, "arXiv:1706.02262"
    ),
    "wae": Publication(
        "tolstikhin2018wasserstein",
        "Tolstikhin, Ilya and Bousquet, Olivier and Gelly, Sylvain and Schoelkopf, Bernhard",
        "Wasserstein Auto-Encoders",
        2018,
        "ICLR 2018",
    ),
    "rae": Publication(
        "ghosh2020variational",
        "Ghosh, Partha and Sajjadi, Mehdi S. M. and Vergari, Antonio and Black, Michael and Schoelkopf, Bernhard",
        "From Variational to Deterministic Autoencoders",
        2020,
        "ICLR 2020",
    ),
    "total-correlation": Publication(
        "chen2018isolating",
        "Chen, Ricky T. Q. and others",
        "Isolating Sources of Disentanglement in VAEs",
        2018,
        "arXiv:1802.04942",
    ),
    "rws": Publication(
        "bornschein2015reweighted",
        "Bornschein, Jorg and Bengio, Yoshua",
        "Reweighted Wake-Sleep",
        2015,
        "arXiv:1406.2751",
    ),
    "ais": Publication(
        "neal2001annealed", "Neal, Radford M.", "Annealed Importance Sampling", 2001, "Statistics and Computing 11"
    ),
    "sandwich": Publication(
        "grosse2015sandwiching",
        "Grosse, Roger B. and Ghahramani, Zoubin and Adams, Ryan P.",
        "Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo",
        2015,
        "arXiv:1511.02543",
    ),
    "aae": Publication(
        "makhzani2015aae", "Makhzani, Alireza and others", "Adversarial Autoencoders", 2015, "arXiv:1511.05644"
    ),
    "vae-gan": Publication(
        "larsen2016vaegan",
        "Larsen, Anders Boesen Lindbo and others",
        "Autoencoding beyond pixels using a learned similarity metric",
        2016,
        "arXiv:1512.09300",
    ),
    "factor-vae": Publication(
        "kim2018factorising", "Kim, Hyunjik and Mnih, Andriy", "Disentangling by Factorising", 2018, "arXiv:1802.05983"
    ),
}


def references_of(names: Iterable[str]) -> list[Publication]:
    """Return the papers of models, objectives and annealing, of Pyro, of importance sampling and of k-hat, each once.

    Args:
        names: names with settings, such as ``"iwae:particles=8"``, and models of a user, such as ``"my.py:Model"``.
    """
    own = [_BY_NAME[base] for name in names if (base := name.split(":")[0].strip()) in _BY_NAME]
    return list(dict.fromkeys([*own, _IWAE, _KHAT, _PYRO]))
