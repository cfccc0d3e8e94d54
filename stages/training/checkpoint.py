"""A training run as far as it has come, in `cache/store/train/` of the main checkout: killed, it goes on from there."""

import hashlib
import io as streams
import json
import pickle
import time
from collections.abc import Mapping
from typing import Any

import torch

from stages import files, paths

SECONDS = 1.0  # between two checkpoints: epochs of cached features are often shorter than a write


class Checkpoint:
    """The state of one training run.

    Args:
        inputs: all that its result depends on; equal inputs, and only they, find each other's state.
    """

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        described = json.dumps({**inputs, "torch": torch.__version__}, sort_keys=True)
        self.path = paths.store() / "train" / f"{hashlib.sha256(described.encode()).hexdigest()[:16]}.pt"
        self._saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last; None where there is none, or a damaged one."""
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError):
            return None
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Keeps the state after an epoch, whole or not at all, once a second at most."""
        if time.monotonic() - self._saved < SECONDS:
            return
        stream = streams.BytesIO()
        torch.save(dict(state), stream)
        files.write_bytes(self.path, stream.getvalue())
        self._saved = time.monotonic()

    def drop(self) -> None:
        """The run has finished."""
        self.path.unlink(missing_ok=True)
