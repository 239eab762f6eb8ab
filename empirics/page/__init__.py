"""Pages for people: a run, a run that did not finish, and runs side by side, each as one HTML file that needs nothing else.

`fields` shows values of a run's files, `model` is what a page is, `run`, `partial` and `side_by_side` say what stands on it, `figures`
draws, and `html` writes it.
"""
