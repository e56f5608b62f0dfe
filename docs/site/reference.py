"""The reference: a page a public module, with every public name as its source and its docstring have it.

Names, signatures and docstrings are read from the source, as a person reads them; nothing is imported.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from docs.site.docstrings import escaped, first_sentence, to_markdown
from docs.site.library import Definition, Library, Module, definitions_in

__all__ = ["Floor", "Reference", "index_page", "read_floors", "source_page"]

_SPECIAL_METHODS = {
    "__call__",
    "__getitem__",
    "__iter__",
    "__len__",
    "__contains__",
    "__enter__",
    "__add__",
    "__sub__",
    "__matmul__",
}
_NO_PAGES = {"cli", "__main__", "explorer"}
_ROW = re.compile(r"^\| (\d) \| (.+?) \| (.+) \|$", re.MULTILINE)
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Floor:
    """A row of the table of floors: its number, the parts that stand in it and what they know."""

    number: int
    parts: tuple[str, ...]
    about: str


def read_floors(architecture: str) -> list[Floor]:
    """Return the floors that ARCHITECTURE.md tells of, from the bottom to the top."""
    rows = []
    for number, parts, about in _ROW.findall(architecture):
        names = tuple(part.removesuffix("/").removesuffix(".py") for part in re.findall(r"`([^`]+)`", parts))
        rows.append(Floor(int(number), names, about))
    return sorted(rows, key=lambda floor: floor.number)


@dataclass
class Reference:
    """The pages of the reference, and where each name has its place in them."""

    library: Library
    floors: Sequence[Floor]
    homes: dict[tuple[str, str], str] = field(default_factory=dict)
    """By a definition the module on whose page it is described."""
    _found: dict[str, list[Definition]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for module in self.public:
            for definition in self._defined(module):
                now = self.homes.get(definition.key)
                if now is None or (_is_inside(definition.module, module), len(module)) > (
                    _is_inside(definition.module, now),
                    len(now),
                ):
                    self.homes[definition.key] = module

    @cached_property
    def public(self) -> list[str]:
        """The modules that have a page: the package itself, its parts, their packages, and modules of two packages by themselves."""
        root = self.library.source.name
        return [name for name, module in self.library.modules.items() if name == root or (module.names and self._has_page(name))]

    def _has_page(self, name: str) -> bool:
        """Whether a module is a part, a package, one of `interp`, or what experiments share; experiments are in the gallery."""
        parts, module = name.split("."), self.library.modules[name]
        if len(parts) == 1 or parts[1] in _NO_PAGES:
            return False
        if len(parts) == 2 or module.is_package or parts[1] == "interp":
            return len(parts) <= 3 or module.is_package
        offered = (
            {*self.library.modules["cutaway.experiments"].names, "EXPERIMENT"} if parts[1] == "experiments" else set(module.names)
        )
        return len(parts) == 3 and not offered & {*module.names}

    @cached_property
    def short_names(self) -> dict[str, str]:
        """By a short name the full one on a page, where only one is called so."""
        found: dict[str, set[str]] = {}
        for (_, name), home in self.homes.items():
            found.setdefault(name, set()).add(f"{home}.{name}")
        return {name: next(iter(full)) for name, full in found.items() if len(full) == 1}

    @cached_property
    def scopes(self) -> dict[str, dict[str, str]]:
        """By a file what the names that its signatures use mean: the full name of each that has a place on a page."""
        found = {}
        for module in sorted({module for module, _ in self.homes}):
            here = self.library.modules[module]
            meant = {name: self.library.find(module, name) for name in {*here.definitions, *here.imports}}
            found[_path_of(here, self.library.source)] = {
                name: f"{self.homes[each.key]}.{each.name}"
                for name, each in sorted(meant.items(), key=lambda item: item[0])
                if isinstance(each, Definition) and each.key in self.homes
            }
        return found

    @cached_property
    def elsewhere(self) -> dict[str, str]:
        """By another full name of something the one under which it is described: `cutaway.load`, `cutaway.ablation.ablate`."""
        found = {f"{module}.{name}": f"{home}.{name}" for (module, name), home in self.homes.items()}
        pages = {module: module for module in self.public}
        for module in self.public:
            for name in self.library.modules[module].names:
                if (other := self.library.find(module, name)) in self.public:
                    pages[f"{module}.{name}"] = str(other)
        for shown, module in pages.items():
            found |= {f"{shown}.{each.name}": f"{self.homes[each.key]}.{each.name}" for each in self._defined(module)}
        return {name: home for name, home in {**pages, **found}.items() if name != home}

    def by_floor(self) -> Iterator[tuple[Floor, list[str]]]:
        """Yield the floors from the top to the bottom with the modules that have a page; raises ValueError for one without a floor."""
        left = [name for name in self.public if "." in name]
        for floor in reversed(self.floors):
            here = [name for name in left if name.split(".")[1] in floor.parts]
            left = [name for name in left if name not in here]
            if here:
                yield floor, here
        if left:
            raise ValueError(f"ARCHITECTURE.md has no floor for {', '.join(left)}")

    def sources(self) -> dict[str, tuple[str, int]]:
        """Return for each name that has a place on a page its file and line."""
        found = {}
        for (module, name), home in self.homes.items():
            path = _path_of(self.library.modules[module], self.library.source)
            definition = self.library.modules[module].definitions[name]
            found[f"{home}.{name}"] = path, definition.node.lineno
            if isinstance(definition.node, ast.ClassDef):
                for member in _members(definition.node):
                    found[f"{home}.{name}.{member.name}"] = path, member.node.lineno
        return found

    def page(self, name: str) -> str:
        """Return the page of a module as Markdown."""
        module = self.library.modules[name]
        described = [each for each in self._defined(name) if self.homes[each.key] == name]
        link = f"[Its source](shown:{_path_of(module, self.library.source)})."
        parts = [f"# {name}", f"```{{py:module}} {name}\n```", to_markdown(module.docstring), link, self._overview(name)]
        parts += [_described(each, name, self._also(each, name)) for each in described]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _defined(self, module: str) -> list[Definition]:
        if module not in self._found:
            found = (self.library.find(module, name) for name in self.library.modules[module].names)
            self._found[module] = [each for each in found if isinstance(each, Definition)]
        return self._found[module]

    def _also(self, definition: Definition, home: str) -> list[str]:
        """Return the other public modules that offer the same name."""
        return [
            other for other in self.public if other != home and any(each.key == definition.key for each in self._defined(other))
        ]

    def _overview(self, module: str) -> str:
        rows = []
        for name in self.library.modules[module].names:
            match self.library.find(module, name):
                case Definition() as found:
                    target, about = f"{self.homes[found.key]}.{name}", _about(found.docstring)
                    rows.append(f"| {{py:obj}}`{name} <{target}>` | {about} |")
                case str(other):
                    about = _about(self.library.modules[other].docstring)
                    shown = f"[`{name}`]({other}.md)" if other in self.public else f"`{name}`"
                    rows.append(f"| {shown} | {about} |")
                case None:
                    rows.append(f"| `{name}` | |")
        return "\n".join(["| name | what it is |", "|---|---|", *rows]) if rows else ""


def _is_inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _path_of(module: Module, source: Path) -> str:
    return f"src/{module.path.relative_to(source.parent).as_posix()}"


def _described(definition: Definition, module: str, also: Sequence[str]) -> str:
    """Return the description of a name with, for a class, those of its members."""
    node, name = definition.node, definition.name
    elsewhere = f"Also {', '.join(f'`{other}.{name}`' for other in also)}." if also else ""
    match node:
        case ast.ClassDef():
            bases = ", ".join(f"`{ast.unparse(base)}`" for base in node.bases)
            text = [to_markdown(definition.docstring), f"Bases: {bases}." if bases else "", elsewhere]
            members = [_member(member, module) for member in _members(node)]
            return _directive("class", name + _signature_of_class(node), [*text, *members], module, depth=8)
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            signature = name + _signature(node)
            return _directive("function", signature, [to_markdown(definition.docstring), elsewhere], module, depth=8)
        case ast.AnnAssign() | ast.Assign():
            return _directive(
                "data", name, [to_markdown(definition.docstring), elsewhere], module, depth=8, options=_value_of(node)
            )
    raise AssertionError(f"{module}.{name} is defined by a {type(node).__name__}")


def _about(docstring: str) -> str:
    """Return the first sentence of a docstring for a cell of a table, in which a bar would begin the next one."""
    return re.sub(r"(?<!\\)\|", r"\|", first_sentence(docstring))


def _value_of(node: ast.Assign | ast.AnnAssign) -> Mapping[str, str]:
    options = {}
    if isinstance(node, ast.AnnAssign):
        options["type"] = ast.unparse(node.annotation)
    if node.value is not None and len(value := ast.unparse(node.value)) <= 200 and "\n" not in value:
        options["value"] = value
    return options


def _members(node: ast.ClassDef) -> list[Definition]:
    """Return what a class defines for others, in the order of its source."""
    found = []
    for each in definitions_in("", node.body):
        match each.node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                is_setter = any(ast.unparse(decorator).endswith((".setter", "overload")) for decorator in each.node.decorator_list)
                is_public = (not name.startswith("_") or name in _SPECIAL_METHODS) and each.docstring
                if is_public and not is_setter:
                    found.append(each)
            case ast.AnnAssign() | ast.Assign() if not each.name.startswith("_") and (each.docstring or _is_dataclass(node)):
                found.append(each)
    return found


def _member(member: Definition, module: str) -> str:
    text = [to_markdown(member.docstring)]
    match member.node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() as node:
            decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
            if decorators & {"property", "cached_property"}:
                options = {"type": ast.unparse(node.returns)} if node.returns else {}
                return _directive("property", member.name, text, module, depth=6, options=options)
            kind = next((kind for kind in ("classmethod", "staticmethod") if kind in decorators), None)
            options = {kind: ""} if kind else {}
            signature = member.name + _signature(node, is_bound=kind != "staticmethod")
            return _directive("method", signature, text, module, depth=6, options=options)
        case ast.AnnAssign() | ast.Assign() as value:
            return _directive("attribute", member.name, text, module, depth=6, options=_value_of(value))
    raise AssertionError(member)


def _directive(
    kind: str, signature: str, text: Sequence[str], module: str, *, depth: int, options: Mapping[str, str] | None = None
) -> str:
    fence = ":" * depth
    given = [f":{name}:" + (f" {_quoted(value)}" if value else "") for name, value in (options or {}).items()]
    head = [f"{fence}{{py:{kind}}} {signature}", f":module: {module}", *given, ""]
    return "\n".join([*head, "\n\n".join(part for part in text if part), fence])


def _quoted(value: str) -> str:
    """Return the value of an option as YAML has texts."""
    return "'" + value.replace("'", "''") + "'"


def _signature(node: _Function, *, is_bound: bool = False) -> str:
    """Return the arguments and the result as the source has them, without `self`."""
    text = _arguments(node.args, without_first=is_bound)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({text}){returns}"


def _arguments(arguments: ast.arguments, *, without_first: bool) -> str:
    given = ast.arguments(
        posonlyargs=list(arguments.posonlyargs),
        args=list(arguments.args),
        vararg=arguments.vararg,
        kwonlyargs=arguments.kwonlyargs,
        kw_defaults=arguments.kw_defaults,
        kwarg=arguments.kwarg,
        defaults=arguments.defaults,
    )
    if without_first:
        (given.posonlyargs or given.args).pop(0)
    return ast.unparse(given)


def _signature_of_class(node: ast.ClassDef) -> str:
    """Return the arguments that a class is made with: its `__init__`'s, or the fields of a dataclass."""
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return f"({_arguments(statement.args, without_first=True)})"
    if not _is_dataclass(node):
        return ""
    fields = [each.node for each in definitions_in("", node.body) if isinstance(each.node, ast.AnnAssign)]
    shown = [text for text in map(_field, fields) if text]
    star = ["*"] if any("kw_only=True" in ast.unparse(decorator) for decorator in node.decorator_list) and shown else []
    return f"({', '.join([*star, *shown])})"


def _field(node: ast.AnnAssign) -> str:
    annotation, value = ast.unparse(node.annotation), node.value
    if annotation.startswith("ClassVar"):
        return ""
    name = f"{ast.unparse(node.target)}: {annotation}"
    if value is None:
        return name
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        given = {keyword.arg: keyword.value for keyword in value.keywords}
        if "init" in given and ast.unparse(given["init"]) == "False":
            return ""
        if "default" in given:
            return f"{name} = {ast.unparse(given['default'])}"
        return f"{name} = ..." if "default_factory" in given else name
    return f"{name} = {ast.unparse(value)}"


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any(ast.unparse(decorator).partition("(")[0].endswith("dataclass") for decorator in node.decorator_list)


def index_page(reference: Reference) -> str:
    """Return the first page of the reference: the modules by floor, those of one part together."""
    tree = ["cutaway", *(f"{name.partition('.')[2]} <{name}>" for _, names in reference.by_floor() for name in names)]
    parts = [
        "# Reference",
        "Every public name, read from the source. Begin at [`cutaway`](cutaway.md), which offers the most used; "
        "an {ref}`index <genindex>` has all. Floors are those of the architecture: an import goes down or stays on its floor.",
        "```{toctree}\n:hidden:\n\n" + "\n".join(tree) + "\n```",
    ]
    for number, group in itertools.groupby(reference.by_floor(), key=lambda each: each[0].number):
        rows = list(group)
        parts.append(f"## Floor {number}")
        if single := [name for _, names in rows if len(names) == 1 for name in names]:
            parts.append(_modules(reference.library, single))
        for floor, names in rows:
            if len(names) > 1:
                about = escaped(floor.about[:1].upper() + floor.about[1:].rstrip("."))
                parts += [f"### {', '.join(floor.parts)}", f"{about}.", _modules(reference.library, names)]
    return "\n\n".join(parts) + "\n"


def _modules(library: Library, names: Sequence[str]) -> str:
    rows = [f"| [`{name}`]({name}.md) | {first_sentence(library.modules[name].docstring)} |" for name in names]
    return "\n".join(["| module | what it is |", "|---|---|", *rows])


def source_page(reference: Reference) -> str:
    """Return the page that leads to the source of every module, by floor."""
    library = reference.library
    parts = ["# Source", "Every module of the library as it is, by floor. Lines have addresses."]
    floors = [*reversed(reference.floors)]
    rows: dict[int, list[str]] = {floor.number: [] for floor in floors}
    number_of = {part: floor.number for floor in floors for part in floor.parts}
    for name, module in library.modules.items():
        part = name.split(".")[1] if "." in name else "cli"
        number = number_of.get(part, floors[0].number)
        rows[number].append(f"| [`{name}`](shown:{_path_of(module, library.source)}) | {first_sentence(module.docstring)} |")
    for number, lines in rows.items():
        parts.append(f"## Floor {number}\n\n" + "\n".join(["| module | what it is |", "|---|---|", *lines]))
    return "\n\n".join(parts) + "\n"
