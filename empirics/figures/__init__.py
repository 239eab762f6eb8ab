"""Tables and drawings of what lies in folders of runs. No torch.

`finished_run` and `folders` read, `tables` says what is drawn, and `plotting` draws.
"""
