"""Entry point of ``python -m pvae`` and of the console script ``pvae``."""

from pvae.cli import main

if __name__ == "__main__":
    main()
