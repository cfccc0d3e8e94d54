"""The state of an unfinished training run, in `cache/store/train/` of the main checkout, to go on from after a kill."""

import hashlib
import io as streams
import json
import pickle
import time
from collections.abc import Mapping
from typing import Any

import torch

from stages import files, paths

SECONDS = 1.0  # at least, between two checkpoints: an epoch on cached features is often shorter than a write


class Checkpoint:
    """The state of one training run.

    Args:
        inputs: everything that its result depends on; a run finds the state of a run with equal inputs, and no other.
    """

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        described = json.dumps({**inputs, "torch": torch.__version__}, sort_keys=True)
        self.path = paths.store() / "train" / f"{hashlib.sha256(described.encode()).hexdigest()[:16]}.pt"
        self._saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last; None if there is none or if it is damaged."""
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError):
            return None
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Saves the state after an epoch, completely or not at all, at most once per second."""
        if time.monotonic() - self._saved < SECONDS:
            return
        stream = streams.BytesIO()
        torch.save(dict(state), stream)
        files.write_bytes(self.path, stream.getvalue())
        self._saved = time.monotonic()

    def drop(self) -> None:
        """Removes the state of a run that has finished."""
        self.path.unlink(missing_ok=True)
