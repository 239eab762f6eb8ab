"""Many runs or comparisons from one table of settings: `proteus-bounds sweep GRID.yaml`, on one machine or on many.

`grid` reads the cells, `store` keeps what they gave under the hash of what they were made of, `work` computes them, `engines` decide
where, `run` puts these together, and `table` makes one table of it all.
"""
