"""Tables and drawings of what lies in folders of runs. No torch."""
