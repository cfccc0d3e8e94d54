"""coldcut: the frozen part of a network runs once, heads train in seconds. `python -m stages` lists the commands."""

import gc
import os
import sys

# Before torch is imported. OpenMP's threads spin while they wait; beside another busy process (a second experiment of
# the queue, the decoding threads) that made training 25 times and extraction 3 times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# OpenVINO tells its makers of every conversion, over the network, where the package for that can be imported.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
if not sys.stderr.isatty():  # a log file wants a line now and then, not ten a second
    os.environ.setdefault("TQDM_MININTERVAL", "10")
# Importing torch makes a million objects: looking for garbage among them in between takes half a second.
gc.set_threshold(50_000, 20, 100)
