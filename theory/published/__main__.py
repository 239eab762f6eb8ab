"""``python -m theory.published [--out FILE] [--seed N]``."""

from theory.published.table import main

if __name__ == "__main__":
    main()
