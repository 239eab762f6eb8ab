"""Routing among adapters that were trained before: certified, searched in stages, served.

`certify` judges a way of routing by samples of its traffic, `certificate` is what it says, and `certified_samples` are the scores that it
keeps. `router` loads what was certified, and `serving` answers with it under many threads. `cascade` searches in two stages;
`certified_cascade` is that of a certified folder, `served_cascade` one that is served. `signature_index`, with `index_blocks` in memory and
`index_files` on disk, searches very many tasks.
"""
