"""The fine-tuning pipeline whose measured retrieval error is set against the bounds of `theory`."""
