"""Which knobs of params.yaml are read while a stage runs."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from stages import params as params_module
from stages.blocks import Block
from stages.params import Params


class Recorder:
    """Notes every knob that is read, by its dotted name; a block of its own (`phases`, `split`) knob by knob.

    Attributes:
        used: knobs read one by one, or as part of a block that was taken as a whole.
        stored: knobs that were written out with all of params (into head.json).
    """

    def __init__(self, params: Params) -> None:
        self.used, self.stored = set[str](), set[str]()
        self._names = dict(_blocks(params, ""))
        self.paused = False
        self._params = params  # kept alive, since blocks are told apart by id()

    def read(self, block: Block, fields: set[str]) -> None:
        """Notes that some fields of a block were read."""
        if isinstance(block, Params):
            prefix = ""
        elif id(block) in self._names:
            prefix = self._names[id(block)] + "."
        else:
            return  # made by the stage itself
        values = object.__getattribute__(block, "__dict__")
        if isinstance(block, Params):  # a copy, of which the stage has set some knobs itself
            original = object.__getattribute__(self._params, "__dict__")
            fields = {name for name in fields if values[name] is original[name]}
        self.used |= {f"{prefix}{name}" for name in fields if not isinstance(values[name], Block)}

    def read_whole(self, block: Block) -> None:
        """Notes that a block was read with all that is in it."""
        values = object.__getattribute__(block, "__dict__")
        self.read(block, set(values))
        for value in values.values():
            if isinstance(value, Block):
                self.read_whole(value)


def _blocks(block: Block, name: str) -> Iterator[tuple[int, str]]:
    for field, value in block.__dict__.items():
        if isinstance(value, Block):
            yield id(value), f"{name}{field}"
            yield from _blocks(value, f"{name}{field}.")


@contextlib.contextmanager
def recording(params: Params) -> Iterator[Recorder]:
    """Records what is read of `params`, and of copies of it, as long as the context lasts."""
    recorder = Recorder(params)
    plain_get, plain_dump, plain_iter = Block.__getattribute__, Block.model_dump, Block.__iter__
    plain_check = params_module.from_tree

    def get(self: Block, name: str) -> Any:
        if name in type(self).model_fields and not recorder.paused:
            recorder.read(self, {name})
        return plain_get(self, name)

    def dump(self: Block, **options: Any) -> Any:
        if isinstance(self, Params):
            if options:  # without any it is `with_overrides`, which makes a copy
                written = set(options.get("include") or type(self).model_fields)
                recorder.stored |= written - set(options.get("exclude") or ())
        else:
            recorder.read_whole(self)
        return plain_dump(self, **options)

    def check(*arguments: Any) -> Params:
        recorder.paused = True  # checking the knobs of a copy is not reading them
        try:
            return plain_check(*arguments)
        finally:
            recorder.paused = False

    def iterate(self: Block) -> Any:
        recorder.read_whole(self)
        return plain_iter(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Block, "__getattribute__", get)
        patch.setattr(Block, "model_dump", dump)
        patch.setattr(Block, "__iter__", iterate)
        patch.setattr(params_module, "from_tree", check)
        yield recorder
