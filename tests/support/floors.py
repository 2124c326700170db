"""The floors of the package: a file imports only from lower ones."""

FLOORS = [
    {"deprecation", "errors", "fit_options", "randomness", "user_code"},
    {"checks", "files", "json_values", "names"},
    {"batch"},
    {"data", "networks"},
    {"densities"},
    {"programs"},
    {"weights"},
    {"models", "objectives", "em"},
    {"linter"},
    {"train"},
    {"evaluate"},
    {"plots"},
    {"report"},
    {"comparison"},
    {"cli", "commands", "__main__"},
]
