"""Pages for people: a run, a run that did not finish, and runs side by side, each as one HTML file that needs nothing else.

`fields` shows values of a run's files, and `model` is what a page is. `run`, `partial` and `side_by_side` say what stands on it, in parts
that have modules of their own: `phrases`, `causes`, `provenance`, `downloads` and, drawn, `figures`. `html` makes a file of it, which
`write` puts in its place, and `terminal` prints it.
"""
