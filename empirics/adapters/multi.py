"""Embeddings under many adapters in one pass: every pair of a document and an adapter, by `empirics.adapters.pairs`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from empirics.adapters.adapter import Adapter
from empirics.adapters.pairs import embed_pairs
from empirics.adapters.stack import AdapterStack, stack_adapters
from empirics.encoders.backbone import Advance, Backbone
from empirics.encoders.prefix import PrefixSource


def embed_all(
    backbone: Backbone,
    source: PrefixSource,
    indices: Int[np.ndarray, " n"],
    adapters: Sequence[Adapter] | AdapterStack,
    advance: Advance | None = None,
) -> Float[np.ndarray, "n m d"]:
    """Pooled embeddings of documents under each of m adapters; equal to `embed` under each in turn, up to float rounding.

    Never more than `backbone.batch_size` sequences are in the layers at once, whatever m, so that memory grows with m only by the
    adapters themselves (and the result). Adapters may differ in rank and in the projections they adapt: units that are
    missing count as zero.

    Parameters
    ----------
    backbone : Backbone
    source : PrefixSource
    indices : (n,) int array
    adapters : sequence of Adapter, or AdapterStack
        At least one. Who embeds under the same adapters again and again stacks them once.
    advance : callable, optional
        Told the number of documents times adapters just embedded.

    Raises
    ------
    InputError
        If an adapter changes a map before the cached prefix ends, or an embedding is not finite.
    """
    indices, m = np.asarray(indices), len(adapters)
    stack = adapters if isinstance(adapters, AdapterStack) else stack_adapters(backbone, adapters)
    out = embed_pairs(backbone, source, np.repeat(indices, m), np.tile(np.arange(m), indices.size), stack, advance)
    return out.reshape(indices.size, m, -1)
