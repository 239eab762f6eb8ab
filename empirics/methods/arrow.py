"""Arrow routing (Ostapenko et al. 2024): each token is sent to the adapters whose weights it is aligned with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from empirics import processes
from empirics.adapters.adapter import Adapter, Units
from empirics.encoders.anatomy import placed
from empirics.encoders.backbone import Backbone, suffix, token_mean
from empirics.encoders.prefix import PrefixSource, embed_batches

# As in PEFT: the best three adapters share a token by a softmax of temperature one.
TOP_K = 3
TEMPERATURE = 1.0


def prototype(units: Units) -> Float[np.ndarray, " in"]:
    """Top right singular vector (up to sign) of the update ``sum_j b_j a_j'``, from the small factor only."""
    q, r = np.linalg.qr(units.a.T.astype(np.float64))
    return q @ np.linalg.svd(units.b.T.astype(np.float64) @ r.T, full_matrices=False)[2][0]


class Routed(nn.Module):
    """A frozen linear map plus, for each token, a mixture of low-rank updates; keeps the gates of its latest call.

    Attributes
    ----------
    gates : (n, t, m) tensor
        Share of each adapter for each token.
    """

    def __init__(self, base: nn.Linear, updates: Sequence[Units], device: torch.device) -> None:
        super().__init__()
        self.base, self.top_k = base, min(TOP_K, len(updates))
        self.a = [torch.from_numpy(u.a).to(device) for u in updates]
        self.b = [torch.from_numpy(u.b).to(device) for u in updates]
        self.prototypes = torch.from_numpy(np.stack([prototype(u) for u in updates]).astype(np.float32)).to(device)
        self.gates = torch.empty(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply base and mixture."""
        # Under autocast the product is of half precision, and a softmax is not.
        similarity = (x @ self.prototypes.T).float().abs() / TEMPERATURE
        best = similarity.topk(self.top_k, dim=-1)
        self.gates = torch.zeros_like(similarity).scatter(-1, best.indices, best.values.softmax(dim=-1))
        out = self.base(x)
        for k, (a, b) in enumerate(zip(self.a, self.b, strict=True)):
            out = out + self.gates[..., k : k + 1].to(out.dtype) * ((x @ a.T) @ b)
        return out


def routed(backbone: Backbone, adapters: Sequence[Adapter]) -> dict[str, Routed]:
    """Routing modules for every projection that the adapters update."""
    return {
        name: Routed(backbone.model.get_submodule(name), [x.folded[name] for x in adapters], backbone.device) for name in adapters[0].folded
    }


def gate_shares(
    backbone: Backbone, source: PrefixSource, indices: Int[np.ndarray, " n"], adapters: Sequence[Adapter]
) -> Float[np.ndarray, "n m"]:
    """Mean gate of each adapter over a document's tokens and the adapted projections.

    Parameters
    ----------
    backbone, source
    indices : (n,) int array
        Documents of the source.
    adapters : sequence of Adapter
        At least one, all on the same projections.
    """
    modules = routed(backbone, adapters)
    out = np.zeros((indices.size, len(adapters)))
    with placed(backbone.model, modules), torch.inference_mode():
        for rows, hidden, mask in embed_batches(backbone, source, indices):
            suffix(backbone, hidden, mask)
            out[rows] = torch.stack([token_mean(module.gates, mask) for module in modules.values()]).mean(0).cpu().numpy()
    processes.add_up([torch.from_numpy(out)])
    return out
