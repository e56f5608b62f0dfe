"""The library's source, read: its modules, what each defines, and where the names that it offers come from."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

__all__ = ["Definition", "Library", "Module", "definitions_in"]


@dataclass(frozen=True)
class Definition:
    """Where a name is defined, and how: the statement, and for a value the text under it."""

    module: str
    name: str
    node: ast.stmt
    docstring: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """The module and the name, which no other definition has."""
        return self.module, self.name


class Module:
    """One file of the library, read."""

    def __init__(self, name: str, path: Path, text: str) -> None:
        self.name, self.path, self.text = name, path, text
        self.tree = ast.parse(text)
        self.is_package = path.name == "__init__.py"

    @cached_property
    def docstring(self) -> str:
        """What it says of itself."""
        return ast.get_docstring(self.tree) or ""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Its `__all__`, without names that begin with an underscore."""
        for statement in self.tree.body:
            if isinstance(statement, ast.Assign) and [ast.unparse(target) for target in statement.targets] == ["__all__"]:
                return tuple(name for name in ast.literal_eval(statement.value) if not name.startswith("_"))
        return ()

    @cached_property
    def definitions(self) -> dict[str, Definition]:
        """What is defined in it, by name."""
        return {found.name: found for found in definitions_in(self.name, self.tree.body)}

    @cached_property
    def imports(self) -> dict[str, tuple[str, str]]:
        """What it has from other modules, by name: the module, and the name there."""
        package = self.name if self.is_package else self.name.rpartition(".")[0]
        found = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom):
                origin = node.module or ""
                if node.level:
                    base = package.split(".")[: len(package.split(".")) - node.level + 1]
                    origin = ".".join([*base, *([origin] if origin else [])])
                found |= {alias.asname or alias.name: (origin, alias.name) for alias in node.names}
        return found


def definitions_in(module: str, body: Sequence[ast.stmt]) -> Iterator[Definition]:
    """Yield what statements define, in their order, with the text that stands under a value."""
    for statement, after in zip(body, [*body[1:], None], strict=True):
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield Definition(module, name, statement, ast.get_docstring(statement) or "")
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield Definition(module, name, statement, _text_of(after))
            case ast.If() | ast.Try():
                yield from definitions_in(module, [*statement.body, *statement.orelse])


def _text_of(statement: ast.stmt | None) -> str:
    match statement:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return text
    return ""


class Library:
    """All modules of the package below a folder."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.modules = dict(sorted((name, Module(name, path, path.read_text("utf-8"))) for name, path in _files(source)))

    def find(self, module: str, name: str) -> Definition | str | None:
        """Return where a name of a module is defined, the module that it is, or None where it is another package's."""
        here = self.modules.get(module)
        if here and name in here.definitions:
            return here.definitions[name]
        if here and here.imports.get(name, (module, name)) != (module, name):
            return self.find(*here.imports[name])  # a function may be called like the module that it is in
        return f"{module}.{name}" if f"{module}.{name}" in self.modules else None


def _files(source: Path) -> Iterator[tuple[str, Path]]:
    for path in source.rglob("*.py"):
        parts = [source.name, *path.relative_to(source).with_suffix("").parts]
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path
