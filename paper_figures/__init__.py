"""The figures of the paper, one script each: they read what a run left, and train nothing (paper_figures/README.md)."""
