"""The figures of a run, as methods of `run.plot` and on the command line."""
