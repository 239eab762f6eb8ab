"""Runs and methods side by side.

`comparison` sets methods against one another, and `standings` sums up its cells; `ablation` sets variants of one run against it, and
`ablation_table` sums them up; `run_comparison` sets finished runs side by side.
"""
