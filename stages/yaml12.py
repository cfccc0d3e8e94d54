"""YAML as DVC reads it: version 1.2, by ruamel. `010` is ten, `no` is a word, and a key may stand only once."""

from typing import Any

from ruamel.yaml import YAML, MappingNode, Node, SequenceNode
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import YAMLError

from stages.errors import UserError


def parse(text: str | bytes, name: str) -> Any:
    """What a YAML text holds; None for an empty one.

    Args:
        text: the text, or its bytes in UTF-8.
        name: of the file, for messages.

    Raises:
        UserError: it is not valid YAML, or a key stands twice in one block.
    """
    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
        return YAML(typ="safe").load(text)
    except DuplicateKeyError:
        key, first, second = _duplicate(YAML(typ="safe", pure=True).compose(text))
        raise UserError(f"{name}, line {second}: `{key}` is already on line {first}.") from None
    except (YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{name} is not valid YAML: {error}") from None


def _duplicate(root: Node) -> tuple[str, int, int]:
    """A key that stands twice in one block, and its two lines.

    Raises:
        LookupError: no key does.
    """
    nodes, seen = [root], set[int]()
    while nodes:
        node = nodes.pop(0)
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                if key.value in lines:
                    return key.value, lines[key.value], line
                lines[key.value] = line
                nodes.append(value)
        elif isinstance(node, SequenceNode):
            nodes += node.value
    raise LookupError
