"""One module per head, and the registry of them. Heads import no training: they are layers and the maths around them.

`contract.py` says what the module of a head offers, `registry.py` lists the heads, `options.py` has their options.
"""
