"""The floors of the package, and the files that may run a user's programs: the rules of the architecture."""

FLOORS = [
    {"accelerators", "deprecation", "errors", "fit_options", "logs", "user_code"},
    {
        "cache_folder",
        "checks",
        "figure_source",
        "files",
        "forked_threads",
        "json_values",
        "loaded_names",
        "memory",
        "memory_layout",
        "names",
        "outside_files",
        "picture_axes",
        "randomness",
        "structures",
    },
    {"batch", "callbacks", "locks", "process_group", "products", "shown_tables"},
    {"data", "networks"},
    {"densities", "plots"},
    {"programs"},
    {"weights"},
    {"models", "objectives", "em"},
    {"linter"},
    {"train"},
    {"evaluate"},
    {"report"},
    {"comparison"},
    {"cli", "commands", "__main__"},
]

#: Files outside these rooms that run programs, each with the reason.
RUNS_PROGRAMS = {
    "pvae/models/local_guide.py": "its guide is a program that calls the guide of another latent model",
    "pvae/models/fitted_prior.py": "its guide is a program that calls the guide of another latent model",
    "pvae/models/semi_amortised.py": "its guide is a program that calls the guide of another latent model",
    "pvae/evaluate/missing_data.py": "it makes a pair of programs in which the guide sees fewer entries than the model",
    "pvae/objectives/base.py": "a hook of `pyro.infer.ELBO` that Pyro calls for a trace of both programs",
    "pvae/objectives/pyro/pyro_losses.py": "a loss of Pyro runs the programs",
}
