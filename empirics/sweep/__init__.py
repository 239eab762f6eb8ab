"""Many runs or comparisons from one table of settings: `proteus-bounds sweep GRID.yaml`, on one machine or on many.

`grid` reads the cells, `store` keeps what they gave under the hash of what they were made of (`identity`), `work` computes them and
`rows` says what is kept of each, `engines` decide where, `run` puts these together, `table` makes one table of it all, and `status` tells
how far it is.
"""
