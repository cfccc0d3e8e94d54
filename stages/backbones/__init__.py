"""Pretrained networks: the zoo, the cut, the engine."""
