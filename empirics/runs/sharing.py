"""What runs have in common: keys that are equal if and only if two runs share their frozen pass, or their training."""

from __future__ import annotations

import json

from empirics.config import RunConfig


def encoding_key(config: RunConfig) -> str:
    """All that the frozen pass depends on, as a key."""
    return json.dumps(config.model_dump(mode="json", include={"seed", "threads", "stream", "backbone"}), sort_keys=True)


def training_key(config: RunConfig) -> str:
    """All that adapters and embeddings depend on, as a key; see `empirics.runs.embedding.train_and_embed`."""
    own = config.model_dump(mode="json", include={"adapter": True, "training": True, "signature": {"held_out"}})
    return encoding_key(config) + json.dumps(own, sort_keys=True)
