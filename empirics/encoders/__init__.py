"""Frozen encoders of text and images, cut where adapters begin.

`loading` reads one, `backbone` is what it becomes, `anatomy` finds its parts; `prefix` runs the layers before the cut once, `feeding` makes
its batches ready, and `convnet` is the packaged network for images.
"""
