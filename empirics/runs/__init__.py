"""A run in its stages, from documents to the report, and its folder.

`pipeline` puts the stages together and fits, `embedding` trains, and `evaluation` makes the report. `checkpoints` keeps the stages of a run
that is not finished, `origin` says what its bits depend on, `sharing` what two runs have in common, `machine` notes versions,
times and memory, and `run_folder` reads what they leave.
"""
