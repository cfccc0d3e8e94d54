"""Workers of a Ray cluster that do not do as they should; Ray's processes import them from here."""

import ctypes
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from stages import paths
from stages.features import decoders, extraction, watchdog
from stages.features.cluster import Remote
from stages.features.extraction import Extractor, Part, Spec
from stages.images.decode import decode


class Hanging(Remote):
    """On the node whose id is in a file it computes nothing, and says so in another; until then none computes."""

    def compute(self, spec: Spec, part: Part) -> Path:
        reached = paths.main_checkout() / "reached"
        if ray.get_runtime_context().get_node_id() == (paths.main_checkout() / "doomed").read_text():
            reached.touch()
            time.sleep(600)
        while not reached.exists():
            time.sleep(0.05)
        return super().compute(spec, part)


class Different(Remote):
    """All but the first to load the network would compute on another device; until then no part is done."""

    def load(self, spec: Spec, marker: Path) -> tuple[Extractor, str]:
        found, where = super().load(spec, marker)
        try:
            (paths.main_checkout() / "first").touch(exist_ok=False)
        except FileExistsError:
            return replace(found, provenance=found.provenance | {"device": "cuda"}), where
        return found, where

    def compute(self, spec: Spec, part: Part) -> Path:
        time.sleep(600)
        raise AssertionError


class Killed(Remote):
    """Ends with the part of an image whose path is in a file."""

    def compute(self, spec: Spec, part: Part) -> Path:
        if (paths.main_checkout() / "fatal").read_text() in [path for path, _ in part.images]:
            with (paths.main_checkout() / "killed").open("a") as file:
                file.write(".")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().compute(spec, part)


class Crashing(Remote):
    """Decodes as `harmful`."""

    def load(self, spec: Spec, marker: Path) -> tuple[Extractor, str]:
        extraction.decode = decoders.decode = harmful  # type: ignore[attr-defined]
        watchdog.LIMIT = 2.0
        return super().load(spec, marker)


def harmful(data: bytes) -> Any:
    """Images of these sizes crash the decoder, or let it hang."""
    if len(data) == 20_001:
        ctypes.string_at(0)
    elif len(data) == 20_002:
        time.sleep(600)
    return decode(data)
