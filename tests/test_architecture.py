"""The shape of the code itself: floors, names, sizes. ARCHITECTURE.md says why; each failure says what to change."""

import ast
import io
import os
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "cutaway"

# Imports go down. A new part of the package gets its floor here.
FLOORS = {
    0: {"presets", "config", "values", "hooks", "runtime", "flops", "ranks", "assets", "plots", "report"},
    1: {"model", "tokenizers"},
    2: {"views", "weights", "costs", "runs", "data", "generation"},
    3: {"language_model"},
    4: {"evaluation", "training", "measure", "interp"},
    5: {"experiments", "watching", "profiles", "lesson"},
    6: {"cli", "explorer", "__main__"},
}
FLOOR = {part: floor for floor, parts in FLOORS.items() for part in parts}

# Never above, whatever the floors allow: a trainer that knows the analyses could not be read without them.
FORBIDDEN = {("training", "interp")}

# "cutaway.module" or "cutaway.module.function" -> why it may be longer
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_MODEL_LINES, MAX_CONFIG_FIELDS = 400, 50, 760, 28


def module_name(path: Path) -> str:
    parts = ["cutaway", *path.relative_to(SOURCE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(PATHS[module].read_text(encoding="utf-8"), filename=str(PATHS[module]))


def part_of(module: str) -> str:
    """The top-level part a module belongs to: "model" of "cutaway.model.norms", "" of cutaway itself."""
    return module.split(".")[1] if "." in module else ""


def is_package(module: str) -> bool:
    return PATHS[module].name == "__init__.py"


def imported_modules(module: str) -> Iterator[tuple[str, int]]:
    """Every module of ours that is imported anywhere in `module`, in functions and for types too, with the line."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_relative(module, node)
            names = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "cutaway":
                yield nearest_module(name), node.lineno


def resolve_relative(module: str, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    package = module.split(".") if is_package(module) else module.split(".")[:-1]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def nearest_module(name: str) -> str:
    """The module that `name`, a module or something in one, comes from; what cutaway itself offers, from where it has it."""
    if name in PATHS:
        return name
    origin, _, attribute = name.rpartition(".")
    if origin == "cutaway":
        return lazy_homes().get(attribute, "cutaway")
    return nearest_module(origin) if "." in origin else origin


@cache
def lazy_homes() -> dict[str, str]:
    """Where the names that cutaway's `__init__` offers come from, as it tells type checkers."""
    return {
        alias.asname or alias.name: node.module or ""
        for node in ast.walk(tree_of("cutaway"))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cutaway")
        for alias in node.names
    }


def test_every_part_has_a_floor() -> None:
    unknown = sorted({part_of(module) for module in PATHS} - {""} - FLOOR.keys())
    assert not unknown, f"give {', '.join(unknown)} a floor in FLOORS above"


def test_imports_go_down() -> None:
    wrong = []
    for module in PATHS:
        here = part_of(module)
        for target, line in imported_modules(module):
            there = part_of(target)
            if here in ("", there):
                continue  # cutaway's own __init__ offers what all floors have
            if there == "" and FLOOR.get(here, 0) < 6:
                wrong.append(f"{module}, line {line}: import the module that has the name, not cutaway")
            elif FLOOR.get(there, 0) > FLOOR.get(here, 99) or (here, there) in FORBIDDEN:
                wrong.append(f"{module}, line {line}: {here} (floor {FLOOR.get(here)}) imports {target} (floor {FLOOR.get(there)})")
    assert not wrong, "\n".join(wrong)


def find_cycle(graph: dict[str, set[str]]) -> list[str] | None:
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str] | None:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return None
        for target in sorted(graph.get(node, ())):
            if cycle := visit(target, [*path, node]):
                return cycle
        done.add(node)
        return None

    return next((cycle for node in sorted(graph) if (cycle := visit(node, []))), None)


def test_find_cycle_finds_one() -> None:
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_no_cycles_between_modules() -> None:
    graph = {module: {target for target, _ in imported_modules(module)} - {module} for module in PATHS if module != "cutaway"}
    cycle = find_cycle(graph)
    assert cycle is None, " -> ".join(cycle or [])


def test_no_cycles_between_parts() -> None:
    graph: dict[str, set[str]] = {}
    for module in PATHS:
        if here := part_of(module):
            graph.setdefault(here, set()).update({part_of(target) for target, _ in imported_modules(module)} - {"", here})
    cycle = find_cycle(graph)
    assert cycle is None, " -> ".join(cycle or [])


def test_import_of_cutaway_needs_no_torch() -> None:
    code = "import sys, cutaway; print([name for name in ('torch', 'numpy', 'matplotlib', 'rich') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


# --- names


def defined_names(module: str) -> set[str]:
    """The public names that a module itself binds, or that a package's `__init__` takes from its modules."""
    names: set[str] = set()
    for node in tree_of(module).body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Assign(targets=targets):
                names.update(leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.ImportFrom(names=aliases) if is_package(module) and resolve_relative(module, node).startswith("cutaway"):
                names.update(alias.asname or alias.name for alias in aliases)
    if module == "cutaway":
        names.update(lazy_homes())
    return {name for name in names if not name.startswith("_")}


def listed_names(module: str) -> list[str] | None:
    for node in tree_of(module).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "__all__" and node.value is not None:
            return list(ast.literal_eval(node.value))
    return None


@pytest.mark.parametrize("module", PATHS)
def test_all_lists_what_is_public(module: str) -> None:
    listed, defined = listed_names(module), defined_names(module)
    if listed is None:
        assert is_package(module), f"{PATHS[module]} has no __all__"
        assert not defined, f"{PATHS[module]} has no __all__ for {sorted(defined)}"
        return
    missing, unknown = sorted(defined - set(listed)), sorted(set(listed) - defined)
    assert not missing, f"public but not in __all__ (list it, or begin it with an underscore): {', '.join(missing)}"
    assert not unknown, f"in __all__ but not defined here: {', '.join(unknown)}"
    assert len(listed) == len(set(listed)), "a name stands twice in __all__"


def test_no_drawers_for_anything() -> None:
    assert not [module for module in PATHS if module.split(".")[-1] in {"utils", "util", "helpers", "misc", "common"}]


def test_the_model_knows_no_families() -> None:
    families = {"gpt2", "gpt-2", "phi", "phi-2", "llama", "smollm2"}

    def names_a_family(node: ast.AST) -> bool:
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                return "family" in name or name in {"model_type", "architecture"}
            case ast.Constant(value=str(text)):
                return text.lower() in families
        return False

    wrong = [
        f"{module}, line {node.lineno}"
        for module in PATHS
        if part_of(module) in {"model", "hooks"}
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Compare | ast.Match | ast.MatchValue) and any(map(names_a_family, ast.walk(node)))
    ]
    assert not wrong, "a family is values of ModelConfig, not a case in the model:\n" + "\n".join(wrong)


def test_the_configuration_is_small() -> None:
    from dataclasses import fields

    from cutaway.config import ModelConfig

    assert len(fields(ModelConfig)) <= MAX_CONFIG_FIELDS


# --- sizes


def docstring_lines(tree: ast.AST) -> set[int]:
    """Lines of the strings that stand alone: docstrings, and those that explain a name above them."""
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def code_lines(source: str) -> set[int]:
    """The numbers of the lines with code on them: no blank lines, comments or docstrings."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines - docstring_lines(ast.parse(source))


def test_code_lines_are_counted() -> None:
    assert code_lines('"""A docstring\n\nof three lines."""\n\n# a comment\nx = [\n    1,\n]  # why\n') == {6, 7, 8}


@cache
def code_lines_of(module: str) -> set[int]:
    return code_lines(PATHS[module].read_text(encoding="utf-8"))


def test_files_are_short() -> None:
    lengths = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in PATHS.items()}
    long = [f"{module}: {n} lines" for module, n in lengths.items() if n >= MAX_FILE_LINES and module not in LONG_FILES]
    assert not long, "\n".join(long)


def test_functions_are_short() -> None:
    long = []
    for module in PATHS:
        for node in ast.walk(tree_of(module)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            n_lines = len(code_lines_of(module) & set(range(node.lineno, (node.end_lineno or node.lineno) + 1)))
            if n_lines >= MAX_FUNCTION_LINES and f"{module}.{node.name}" not in LONG_FUNCTIONS:
                long.append(f"{module}.{node.name}, line {node.lineno}: {n_lines} lines of code")
    assert not long, "\n".join(long)


def test_the_model_is_short_enough_to_read(capsys: pytest.CaptureFixture[str]) -> None:
    read = [module for module in PATHS if part_of(module) in {"model", "config", "hooks"} and module != "cutaway.model"]
    n_lines = sum(map(len, map(code_lines_of, read)))  # but for the package's list of what it exports
    with capsys.disabled():
        print(f"\nmodel/, config.py and hooks.py: {n_lines} lines of code of at most {MAX_MODEL_LINES}")
    assert n_lines <= MAX_MODEL_LINES


def calls_and_imports(tree: ast.AST) -> Iterator[tuple[str, ast.Import | ast.ImportFrom | ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").split(".")[0], node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield ast.unparse(node.func), node


def is_given(node: ast.AST, argument: str, value: object) -> bool:
    return isinstance(node, ast.Call) and any(
        word.arg == argument and isinstance(word.value, ast.Constant) and word.value.value is value for word in node.keywords
    )


def is_pickle(name: str, node: ast.AST) -> bool:
    return (
        name in {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "joblib", "marshal", "torch.save"}
        or (name == "torch.load" and not is_given(node, "weights_only", True))
        or (name == "np.load" and is_given(node, "allow_pickle", True))
    )


def test_nothing_is_pickled() -> None:
    wrong = [
        f"{module}, line {node.lineno}: {name}"
        for module in PATHS
        for name, node in calls_and_imports(tree_of(module))
        if is_pickle(name, node)
    ]
    assert not wrong, "a pickle runs code when it is read:\n" + "\n".join(wrong)


def test_pickles_are_recognised() -> None:
    def found(source: str) -> bool:
        return any(is_pickle(name, node) for name, node in calls_and_imports(ast.parse(source)))

    assert found("from pickle import loads")
    assert found("torch.save(x, path)")
    assert found("torch.load(path)")
    assert found("torch.load(path, weights_only=False)")
    assert not found("torch.load(path, weights_only=True)")


def test_no_error_is_swallowed() -> None:
    def catches_all(kind: ast.expr | None) -> bool:
        return kind is None or (isinstance(kind, ast.Name) and kind.id in {"Exception", "BaseException"})

    wrong = []
    for module in PATHS:
        for node in ast.walk(tree_of(module)):
            match node:
                case ast.ExceptHandler(type=kind, body=body):
                    does_nothing = all(isinstance(line, ast.Pass | ast.Continue) for line in body)
                    is_wrong = kind is None or (does_nothing and catches_all(kind))
                case ast.Call(func=ast.Attribute(attr="suppress") | ast.Name(id="suppress"), args=kinds):
                    is_wrong = any(map(catches_all, kinds))
                case _:
                    continue
            if is_wrong:
                wrong.append(f"{module}, line {node.lineno}")
    assert not wrong, "catch what you expect and say what happens then:\n" + "\n".join(wrong)


def repository_files() -> list[Path]:
    """What git has or would take; without git, as from a source archive, everything."""
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if done.returncode == 0:
        return [ROOT / os.fsdecode(name) for name in done.stdout.split(b"\0") if name]
    return [path for path in ROOT.rglob("*") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)]


def test_no_package_server_is_named() -> None:
    """Packages come from the index that the user has configured, which may not be the public one."""
    servers = [
        ".".join(parts)
        for parts in (
            ("pypi", "org"), ("pythonhosted", "org"), ("pypi", "python", "org"), ("anaconda", "org"), ("npmjs", "org"),
            ("npmjs", "com"), ("deb", "debian", "org"), ("archive", "ubuntu", "com"), ("crates", "io"),
        )
    ]  # fmt: skip
    wrong = []
    for path in repository_files():
        if not path.is_file() or path.stat().st_size > 2**22:
            continue
        content = path.read_bytes()
        if b"\0" not in content[:8192]:
            text = content.decode("utf-8", errors="replace").lower()
            wrong += [f"{path.relative_to(ROOT)}: {server}" for server in servers if server in text]
    assert not wrong, "\n".join(wrong)
