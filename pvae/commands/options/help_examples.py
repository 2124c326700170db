"""One example for each section of the help of each command. A test parses all of them."""

from __future__ import annotations

__all__ = ["example_of"]

_READ_TABLE = "--data new.csv --index id"
_MESSAGES = {
    "train": "train vae --json --no-progress",
    "evaluate": "evaluate runs/a --json",
    "compare": "compare vae --out reports/a --quiet",
    "em": "em --quiet --json",
    "fit-prior": "fit-prior runs/a --out runs/b --json",
    "check": "check my_model.py:MyModel --traceback",
    "gradients": "gradients vae --json",
    "runs": "runs runs --json",
    "data list": "data list --json",
    "data describe": "data describe counts.csv --json",
    "data verify": "data verify mnist --quiet",
    "data fetch": "data fetch mnist --verbose",
    "list": "list --json",
    "help": "help data list",
}
_EXAMPLES: dict[str, dict[str, str]] = {
    "Data": {
        "train": "train vae --data counts.csv --label species --scale standardise",
        "evaluate": f"evaluate runs/a {_READ_TABLE} --limit 500",
        "compare": "compare vae --data mnist --binarise static --out reports/a",
        "em": "em --data points.csv --missing mask",
        "fit-prior": "fit-prior runs/a --data counts.csv --out runs/b",
        "check": "check vae --data counts.csv --columns a,b,c",
        "gradients": "gradients vae --data digits --split validation",
        "data describe": "data describe counts.txt --separator tab --header none",
        "show": f"show runs/a {_READ_TABLE} --out figure.png",
        **{name: f"{name} runs/a {_READ_TABLE} --out {name}.csv" for name in ("encode", "impute", "predict")},
    },
    "Objective": {
        "train": "train vae --objective iwae:particles=8",
        "check": "check gmvae --objective elbo --particles 4",
    },
    "Comparison": {"compare": "compare vae vae:prior=vamp --grid lr=1e-3,3e-4 --seeds 3 --out reports/a"},
    "Cluster": {"compare": "compare vae --plan cells.txt --cpus-per-cell 4 --out reports/a"},
    "Model (flags for built-in models; --set for all)": {
        "train": "train vae --latent 8 --hidden 200,100 --prior vamp",
        "compare": "compare vae --likelihood gaussian --set latent=8 --out reports/a",
        "check": "check my_model.py:MyModel --set width=64",
        "gradients": "gradients vae --latent 8",
    },
    "Training": {
        "train": "train vae --epochs 20 --lr 3e-4 --batch 200 --optimizer adamw",
        "compare": "compare vae --budget 60s --out reports/a",
        "fit-prior": "fit-prior runs/a --epochs 20 --out runs/b",
    },
    "Prior": {"fit-prior": "fit-prior runs/a --draws 5 --out runs/b"},
    "Mixture": {"em": "em --select 2:8 --by bic --covariance diag"},
    "EM": {"em": "em --starts 5 --max-iter 200"},
    "Figure": {"show": "show runs/a --what samples --count 64 --out samples.png"},
    "Study": {"gradients": "gradients vae --objectives elbo,iwae:particles=8 --draws 200"},
    "Annealing": {"evaluate": "evaluate runs/a --method sandwich --chains 8 --limit 100"},
    "Run": {
        "train": "train vae --out runs/a --resume --epochs 40",
        "evaluate": "evaluate runs/a --model my_model.py:MyModel --method elbo",
        "compare": "compare vae --config small.toml --out reports/a",
        "em": "em --config small.toml",
        "fit-prior": "fit-prior runs/a --checkpoint last --out runs/b",
        "gradients": "gradients runs/a --checkpoint last",
        "show": "show runs/a --checkpoint last --out figure.png",
        "export": "export runs/a --checkpoint last --out encoder.pt2",
        **{
            name: f"{name} runs/a --checkpoint last --out {name}.csv"
            for name in ("encode", "sample", "impute", "predict")
        },
    },
    "Computation": {
        "evaluate": "evaluate runs/a --particles 5000 --device cuda",
        "check": "check vae --seed 1",
        "gradients": "gradients vae --seed 1 --device cpu",
        "impute": "impute runs/a --particles 200 --seed 1 --out x.csv",
        **{name: f"{name} runs/a --seed 1 --out {name}.csv" for name in ("encode", "sample", "predict")},
    },
    "Output": {
        "evaluate": "evaluate runs/a --arviz draws.nc",
        "compare": "compare vae --out reports/a",
        "em": "em --out runs/em --assign components.csv",
        "fit-prior": "fit-prior runs/a --out runs/b",
        "encode": "encode runs/a --out codes.npz --force",
        "sample": "sample runs/a --count 1000 --condition y=3 --out samples.csv",
        "impute": "impute runs/a --draws 10 --out completed.csv",
        "predict": "predict runs/a --probabilities --out probabilities.csv",
        "export": "export runs/a --part decoder --out decoder.onnx",
        "gradients": "gradients vae --out gradients",
    },
    "Messages": _MESSAGES
    | {name: f"{name} runs/a --out {name}.csv --quiet" for name in ("encode", "sample", "impute", "predict")}
    | {"show": "show runs/a --out figure.png --quiet"}
    | {"export": "export runs/a --out parameters.safetensors --traceback"},
}


def example_of(command: str, section: str) -> str | None:
    """Return a command line that uses an option of a section; None if there is none.

    Args:
        command: the name of the command, such as ``"train"`` or ``"data list"``.
        section: the title of the section.
    """
    example = _EXAMPLES.get(section, {}).get(command)
    return None if example is None else f"pvae {example}"
