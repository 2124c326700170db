"""Run the cells of a comparison in worker processes or in this process, and show the progress."""
