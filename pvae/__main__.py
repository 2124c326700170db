"""``python -m pvae`` and the console script ``pvae``."""

from pvae.cli import main

if __name__ == "__main__":
    main()
