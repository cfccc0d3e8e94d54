"""Which modules of `stages` import which, from their source."""

import ast
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path

from stages.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
ANY = "*"  # in `stages.heads.*`: one of the modules of a room, chosen when the stage runs


@cache
def modules() -> Mapping[str, Path]:
    """Every module of `stages` by its dotted name; a package goes by the name of its folder."""
    files = sorted((ROOT / "stages").rglob("*.py"))
    parts = {path: path.relative_to(ROOT).with_suffix("").parts for path in files}
    return {".".join(names[:-1] if names[-1] == "__init__" else names): path for path, names in parts.items()}


@cache
def imports(module: str) -> frozenset[str]:
    """The modules that a module imports itself, within functions too, with the packages around them.

    Blocks under `if TYPE_CHECKING` do not run and do not count; nor do packages that hold nothing but a docstring.

    Raises:
        UserError: the module is not valid Python, or imports in a way that does not say which modules.
    """
    named = {name for node in _statements(_tree(module)) for name in _imported(node, module)} - {module}
    return frozenset(name for name in named if name.endswith(ANY) or holds_code(name))


@cache
def holds_code(module: str) -> bool:
    """Whether a module is more than a docstring."""
    return any(not isinstance(node, ast.Expr) for node in _tree(module).body)


def chains(module: str, chosen: Mapping[str, str | None], left_out: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Every module that is imported when `module` is, with a shortest chain of imports that leads there.

    Args:
        module: where the chains begin.
        chosen: for each room with modules that are chosen at run time (`stages.datasets`) the one that is, or None for
            any of them.
        left_out: modules that are left out, with all that is reached through them alone.

    Raises:
        UserError: as for `imports`.
    """
    found: dict[str, tuple[str, ...]] = {module: (module,)}
    queue = [module]
    for name in queue:
        for target in sorted(target for direct in imports(name) for target in _resolved(direct, chosen)):
            if target not in found and target not in left_out:
                found[target] = (*found[name], target)
                queue.append(target)
    return found


def _resolved(name: str, chosen: Mapping[str, str | None]) -> list[str]:
    """The modules that a name stands for: itself, or where it ends in ANY those that may be chosen."""
    room, _, last = name.rpartition(".")
    if last != ANY:
        return [name]
    if choice := chosen[room]:
        return [f"{room}.{choice}"]
    return [module for module in modules() if module.rpartition(".")[0] == room and holds_code(module)]


@cache
def _tree(module: str) -> ast.Module:
    path = modules()[module]
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{path.relative_to(ROOT)} is not valid Python: {error}") from None


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    nodes: list[ast.AST] = [tree]
    for node in nodes:
        if isinstance(node, ast.If) and _last_name(node.test) == "TYPE_CHECKING":
            continue
        nodes += ast.iter_child_nodes(node)
        yield node


def _last_name(node: ast.expr) -> str | None:
    """`c` of the names `c` and `a.b.c`; None of other expressions."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


def _imported(node: ast.AST, module: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield from _with_packages(alias.name)
    elif isinstance(node, ast.ImportFrom):
        if node.level or not node.module:
            raise UserError(f"{module} imports relatively: write the whole name, as in from stages.files import link.")
        yield from _with_packages(node.module)
        yield from (name for alias in node.names if (name := f"{node.module}.{alias.name}") in modules())
    elif isinstance(node, ast.Call) and _last_name(node.func) in ("import_module", "__import__"):
        yield from _dynamic(node.args[0], module)


def _dynamic(argument: ast.expr, module: str) -> Iterator[str]:
    """`import_module(f"stages.heads.{name}")` is any module of stages/heads."""
    if isinstance(argument, ast.Constant):
        yield from _with_packages(str(argument.value))
        return
    parts = argument.values if isinstance(argument, ast.JoinedStr) else []
    room = parts[0].value if parts and isinstance(parts[0], ast.Constant) else None
    if not isinstance(room, str) or (room.startswith("stages.") and not (room.endswith(".") and len(parts) == 2)):
        raise UserError(
            f"{module} imports {ast.unparse(argument)}, which may be any module: write "
            "import_module(f'stages.ROOM.{name}')."
        )
    if room.startswith("stages."):
        yield from _with_packages(room[:-1])
        yield f"{room}{ANY}"


def _with_packages(name: str) -> Iterator[str]:
    parts = name.split(".")
    if parts[0] == "stages":
        yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))
