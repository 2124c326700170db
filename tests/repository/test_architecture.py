"""The house keeps its shape: floors, sizes, names, and who may touch what.

Imports are read from the syntax tree, inside functions and ``TYPE_CHECKING`` blocks too: a type that points
up the house ties the floors together as an import does.
"""

from __future__ import annotations

import ast
import functools
import importlib
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from floors import FLOORS, RUNS_PROGRAMS
from public_names import public_homes

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "pvae"
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = [path for path in FILES if path.name == "__init__.py" and len(path.relative_to(PACKAGE).parts) <= 2]
LONGEST_FILE, LONGEST_FUNCTION, DEEPEST = 300, 50, 3
#: The example at the end of a docstring, which does not count for the length of its file.
EXAMPLE = re.compile(r'^\n +Example:\n.*?(?=^ +"""$)', flags=re.MULTILINE | re.DOTALL)
FORBIDDEN_CALLS = {
    "torch.load": "unpickles: use safetensors",
    "pickle.load": "unpickles a stranger's file",
    "pickle.loads": "unpickles a stranger's bytes",
    "eval": "runs a stranger's code",
    "pyro.clear_param_store": "touches the store of the caller",
    "pyro.set_rng_seed": "seeds every generator of the caller",
    "torch.set_default_dtype": "changes the caller's default",
    "torch.manual_seed": "seeds the caller's generator",
    "np.random.seed": "seeds the caller's generator",
}
# The one place that seeds generators, and puts them back.
ALLOWED = {
    "pvae/train/devices.py": {"np.random.seed"},
    "pvae/randomness.py": {"np.random.seed", "torch.manual_seed"},
}
FORBIDDEN_ATTRIBUTES = {"torch.jit": "deprecated"}
# Rooms whose files may run a user's programs. Others use the methods of `pvae.programs.bound.BoundPrograms`.
ROOMS_THAT_RUN_PROGRAMS = {"programs", "weights"}
# Rooms that read a model by `ModelTraits`, and an objective by the attributes of `Objective`.
ROOMS_WITHOUT_GETATTR = {"linter", "train", "evaluate"}
#: Attributes that a file of these rooms may ask for by name, because the object is neither a model nor an objective.
NAMED_ATTRIBUTES = {
    ("pvae/linter/supports.py", "base_constraint"): "a constraint of torch",
    ("pvae/linter/supports.py", "lower_bound"): "a constraint of torch",
    ("pvae/linter/supports.py", "upper_bound"): "a constraint of torch",
    ("pvae/train/divergence.py", "arg_constraints"): "a distribution",
    ("pvae/train/divergence.py", "base_dist"): "a distribution",
    ("pvae/train/graph/simplify.py", "_schema"): "an operation of torch",
    ("pvae/train/optimisers.py", "__qualname__"): "the class or the function that makes an optimiser",
    ("pvae/train/optimisers.py", "step"): "a schedule of torch",
    ("pvae/train/optimisers.py", "state_dict"): "a schedule of torch",
    ("pvae/train/rollback.py", "base_lrs"): "a schedule of torch",
}
PRIVATE_STORE = {"_params", "_param_to_name", "_constraints"}


@functools.cache
def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


@functools.lru_cache(maxsize=1)
def _nodes(tree: ast.Module) -> tuple[ast.AST, ...]:
    """All nodes of a tree. Only those of the last tree are kept: the trees of all files take a lot of memory."""
    return tuple(ast.walk(tree))


def _home(dotted: str) -> str | None:
    """The name on the floor plan of a dotted module, or None for pvae itself and for other packages."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == "pvae" and len(parts) > 1 else None


def _imports(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    """Line and dotted module of every import; ``from pvae import x`` counts as ``pvae.x``."""
    for node in _nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: 1 - node.level or None], *filter(None, [node.module])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def _climbs(path: Path, tree: ast.Module) -> list[str]:
    """Imports of a file that lead to its own floor's other rooms, or up."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    own = _home(module)
    if own is None or own == "__init__":
        return []
    package = module.rsplit(".", 1)[0]
    found = []
    for line, dotted in _imports(tree, package):
        other = _home(dotted)
        if other is None or other == own:
            continue
        if other not in FLOOR:
            if other != "__version__":
                found.append(f"{_name(path)}:{line} imports pvae.{other} through the front door; name its home")
        elif FLOOR[other] >= FLOOR[own] and own != "__main__" and not {own, other} <= {"cli", "commands"}:
            found.append(f"{_name(path)}:{line} (floor {FLOOR[own]}) imports {dotted} (floor {FLOOR[other]})")
    return found


def _siblings() -> dict[str, set[str]]:
    """For each module, the modules of its own folder that it imports when it is imported."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}
    found = {}
    for module, path in modules.items():
        package = module.rsplit(".", 1)[0]
        dotted = _look(path).imports
        parents = {name.rsplit(".", 1)[0] for name in dotted}
        near = {name for name in modules if name.rsplit(".", 1)[0] == package and not name.endswith("__init__")}
        found[module] = (dotted | parents) & near - {module}
    return found


def _circles(graph: dict[str, set[str]]) -> list[str]:
    """Modules that are left when every module that needs none of the others is taken away."""
    graph = dict(graph)
    while free := [name for name, needs in graph.items() if not needs & graph.keys()]:
        for name in free:
            del graph[name]
    return sorted(graph)


def _in_two_rooms(names: Iterable[tuple[str, Path]]) -> set[str]:
    """The names that files of two folders have."""
    rooms: dict[str, set[Path]] = {}
    for name, path in names:
        rooms.setdefault(name, set()).add(path.parent)
    return {name for name, folders in rooms.items() if len(folders) > 1}


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in _nodes(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    body = function.body[0]
    docstring = (
        isinstance(body, ast.Expr) and isinstance(body.value, ast.Constant) and isinstance(body.value.value, str)
    )
    spoken = (body.end_lineno or body.lineno) - body.lineno + 1 if docstring else 0
    return (function.end_lineno or function.lineno) - function.lineno + 1 - spoken


def _dotted(node: ast.AST) -> str:
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def _bans(path: Path, tree: ast.Module) -> list[str]:
    """Things that no file of the package may hold."""
    found = []
    calls = FORBIDDEN_CALLS.keys() - ALLOWED.get(_name(path), set())
    for node in _nodes(tree):
        line = f"{_name(path)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Assert):
            found.append(f"{line} assert vanishes under -O: raise")
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"{line} bare except: which error is meant?")
        if isinstance(node, ast.Call) and _dotted(node.func) in calls:
            found.append(f"{line} {_dotted(node.func)} {FORBIDDEN_CALLS[_dotted(node.func)]}")
        if isinstance(node, ast.Attribute) and _dotted(node) in FORBIDDEN_ATTRIBUTES:
            found.append(f"{line} {_dotted(node)} is {FORBIDDEN_ATTRIBUTES[_dotted(node)]}")
        if isinstance(node, ast.Attribute) and node.attr in PRIVATE_STORE and path.name != "registration.py":
            found.append(f"{line} only programs/registration.py touches the param store's {node.attr}")
    return found


def _names_in(node: ast.AST) -> set[str]:
    return {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}


def _type_checks(node: ast.AST) -> list[set[str]]:
    """The type names of each ``isinstance`` call inside an expression."""
    calls = [call for call in ast.walk(node) if isinstance(call, ast.Call) and _dotted(call.func) == "isinstance"]
    return [_names_in(call.args[1]) for call in calls]


def _is_own_number_check(node: ast.AST) -> bool:
    """Whether code decides by itself which numbers are counts: that is ``pvae/checks.py``'s rule."""
    if isinstance(node, ast.ImportFrom):
        return node.module == "numbers"
    if isinstance(node, ast.Compare):
        types = {name for right in node.comparators for name in _names_in(right)}
        by_type = isinstance(node.left, ast.Call) and _dotted(node.left.func) == "type"
        return by_type and "int" in types and any(isinstance(each, ast.Is | ast.IsNot) for each in node.ops)
    if isinstance(node, ast.BoolOp):
        checks = _type_checks(node)
        return any(types == {"bool"} for types in checks) and any(types & {"int", "float"} for types in checks)
    if isinstance(node, ast.Raise):
        texts = [
            text.value for text in ast.walk(node) if isinstance(text, ast.Constant) and isinstance(text.value, str)
        ]
        return any(re.search(r"\ba whole number|positive whole numbers", text) for text in texts)
    return False


def _is_own_replacement(node: ast.AST) -> bool:
    """Whether code renames, replaces or syncs files by itself: that is for ``pvae/files.py``."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    if _dotted(node.func) in {"os.replace", "os.rename", "os.renames", "os.fsync", "shutil.move"}:
        return True
    # a path's methods have one positional argument; those of texts have two, those of tables and batches keywords
    return node.func.attr in {"replace", "rename"} and len(node.args) == 1 and not node.keywords


#: what has one place -> (that place, how another place that does it is seen)
ONE_PLACE: dict[str, tuple[str, Callable[[ast.AST], bool]]] = {
    "checks of counts": ("pvae/checks.py", _is_own_number_check),
    "replacing files": ("pvae/files.py", _is_own_replacement),
}


def _repeats(path: Path, tree: ast.Module) -> list[str]:
    """Places that do by themselves what one file does for all."""
    return [
        f"{_name(path)}:{getattr(node, 'lineno', 0)} {what}: use {place}"
        for what, (place, is_repeated) in ONE_PLACE.items()
        if _name(path) != place
        for node in _nodes(tree)
        if is_repeated(node)
    ]


def _is_run_of_a_program(call: ast.Call) -> bool:
    """Return whether a call traces a program, gives it to a loss of Pyro, or calls something named model or guide."""
    function = call.func
    if isinstance(function, ast.Name):
        return function.id in {"model", "guide", "program", "get_importance_trace"}
    if not isinstance(function, ast.Attribute):
        return False
    if ast.unparse(function) == "elbo.loss_and_grads":
        return True
    is_trace = function.attr == "trace" and _dotted(function.value).split(".")[-1] == "poutine"
    return is_trace or function.attr in {"get_trace", "model", "guide"}


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _runs(path: Path, tree: ast.Module) -> list[str]:
    """Return the calls that run a user's program in a file that has no business to."""
    if _room(path) in ROOMS_THAT_RUN_PROGRAMS or _name(path) in RUNS_PROGRAMS:
        return []
    calls = [node for node in _nodes(tree) if isinstance(node, ast.Call) and _is_run_of_a_program(node)]
    return [f"{_name(path)}:{call.lineno} {ast.unparse(call)} runs a program: use BoundPrograms" for call in calls]


def _named_attributes(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and name of every attribute that getattr, hasattr or attrgetter asks for by a literal."""
    for node in _nodes(tree):
        if not isinstance(node, ast.Call):
            continue
        function = _dotted(node.func).removeprefix("builtins.").removeprefix("operator.")
        asked = {"getattr": node.args[1:2], "hasattr": node.args[1:2], "attrgetter": node.args}.get(function, [])
        for argument in asked:
            if isinstance(argument, ast.Constant):
                yield node.lineno, str(argument.value)


def _getattrs(path: Path, tree: ast.Module) -> list[str]:
    """Return the attributes that a file asks for by a literal and that are not in `NAMED_ATTRIBUTES`."""
    if _room(path) not in ROOMS_WITHOUT_GETATTR:
        return []
    return [
        f"{_name(path)}:{line} asks for the attribute {name!r}: use ModelTraits or an attribute of Objective"
        for line, name in _named_attributes(tree)
        if (_name(path), name) not in NAMED_ATTRIBUTES
    ]


class Look(NamedTuple):
    """What one look at the tree of a file finds."""

    climbs: list[str]
    long: list[str]
    bans: list[str]
    repeats: list[str]
    runs: list[str]
    getattrs: list[str]
    imports: set[str]
    classes: list[str]
    named_attributes: set[str]
    has_runs: bool


@functools.cache
def _look(path: Path) -> Look:
    """Parse a file once for all tests."""
    tree, package = _tree(path), ".".join(path.relative_to(ROOT).parent.parts)
    return Look(
        climbs=_climbs(path, tree),
        long=[f"{each.name}: {_length(each)}" for each in _functions(tree) if _length(each) > LONGEST_FUNCTION],
        bans=_bans(path, tree),
        repeats=_repeats(path, tree),
        runs=_runs(path, tree),
        getattrs=_getattrs(path, tree),
        imports={dotted for _, dotted in _imports(tree, package)},
        classes=[node.name for node in _nodes(tree) if isinstance(node, ast.ClassDef)],
        named_attributes={name for _, name in _named_attributes(tree)},
        has_runs=any(isinstance(node, ast.Call) and _is_run_of_a_program(node) for node in _nodes(tree)),
    )


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_what_has_one_place_is_done_there_alone(path: Path) -> None:
    assert _look(path).repeats == []


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_imports_go_down(path: Path) -> None:
    assert _look(path).climbs == []


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_file_and_functions_are_short(path: Path) -> None:
    lines = EXAMPLE.sub("", path.read_text()).count("\n")
    assert lines <= LONGEST_FILE, f"{_name(path)} has {lines} lines"
    assert _look(path).long == []


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_file_holds_nothing_forbidden(path: Path) -> None:
    assert _look(path).bans == []
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", path.read_text())


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_file_runs_no_program_and_asks_no_attribute_of_a_model_by_name(path: Path) -> None:
    assert _look(path).runs + _look(path).getattrs == []


def test_exceptions_for_runs_and_attributes_are_needed() -> None:
    """An entry without a use is removed from its table, so that the tables shrink."""
    looks = {_name(path): _look(path) for path in FILES}
    assert {name for name in RUNS_PROGRAMS if name not in looks or not looks[name].has_runs} == set()
    present = {(name, attribute) for name, look in looks.items() for attribute in look.named_attributes}
    assert NAMED_ATTRIBUTES.keys() - present == set()


def test_modules_of_a_folder_do_not_import_in_circles() -> None:
    assert _circles({"a": {"b"}, "b": {"a"}, "c": set()}) == ["a", "b"]
    assert _circles(_siblings()) == []


def test_no_two_rooms_have_a_file_of_one_name() -> None:
    planted = [("a", PACKAGE / "em" / "a.py"), ("a", PACKAGE / "data" / "a.py"), ("b", PACKAGE / "em" / "b.py")]
    assert _in_two_rooms(planted) == {"a"}
    assert _in_two_rooms((path.stem, path) for path in FILES) - {"base", "__init__"} == set()


def test_no_two_rooms_have_a_class_of_one_name() -> None:
    classes = [(name, path) for path in FILES for name in _look(path).classes]
    assert _in_two_rooms(classes) == set()


def test_every_room_is_on_the_floor_plan() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - {"__init__"} <= set(FLOOR)


def test_no_folder_is_deeper_than_three_levels() -> None:
    assert [_name(path) for path in FILES if len(path.relative_to(PACKAGE).parts) > DEEPEST] == []


def test_no_file_is_called_utils() -> None:
    assert [_name(path) for path in FILES if path.stem in {"utils", "util", "helpers", "misc"}] == []


def test_no_module_bears_the_name_of_a_public_function_beside_it() -> None:
    assert {path.stem for path in PACKAGE.iterdir()} & set(public_homes()) == set()


def test_helpers_of_the_tests_are_in_support() -> None:
    tests = sorted((ROOT / "tests").rglob("*.py"))
    imports = {(_name(path), dotted) for path in tests for _, dotted in _imports(_tree(path), "tests")}
    assert [pair for pair in imports if pair[1].startswith(("test_", "conftest"))] == []
    fixtures = [_name(path) for path in tests if re.search(r"^def own_store\(", path.read_text(), flags=re.MULTILINE)]
    assert fixtures == ["tests/conftest.py"]


@pytest.mark.parametrize("path", FOLDERS, ids=_name)
def test_folder_lists_its_names_and_all_exist(path: Path) -> None:
    module = importlib.import_module(".".join(path.parent.relative_to(ROOT).parts))
    missing = [name for name in module.__all__ if not hasattr(module, name)]
    assert missing == []
    assert len(set(module.__all__)) == len(module.__all__)


def _in(file: str, code: str, look: Callable[[Path, ast.Module], list[str]]) -> list[str]:
    return look(PACKAGE / file, ast.parse(code))


@pytest.mark.parametrize(
    ("file", "code", "wrong"),
    [
        ("weights.py", "import pvae.objectives", True),
        ("weights.py", "from pvae import objectives", True),
        ("weights.py", "from pvae import fit", True),
        ("weights.py", "def f():\n    from pvae.train.trainer import fit", True),
        ("weights.py", "if TYPE_CHECKING:\n    from pvae.train import Run", True),
        ("data/mnist.py", "from pvae.networks import MLP", True),
        ("data/mnist.py", "from ..networks import MLP", True),
        ("data/mnist.py", "from .base import Splits", False),
        ("weights.py", "from pvae.programs import pair", False),
        ("train/run.py", "from pvae import __version__", False),
        ("train/run.py", "import torch", False),
    ],
)
def test_the_floor_check_sees_planted_imports(file: str, code: str, wrong: bool) -> None:
    assert bool(_in(file, code, _climbs)) is wrong


@pytest.mark.parametrize(
    ("file", "code", "wrong"),
    [
        ("weights.py", "assert x", True),
        ("weights.py", "try:\n    f()\nexcept:\n    pass", True),
        ("weights.py", "torch.load(path)", True),
        ("weights.py", "torch.jit.trace(f)", True),
        ("weights.py", "store._params", True),
        ("programs/registration.py", "store._params", False),
        ("weights.py", "torch.save(path)", False),
    ],
)
def test_the_ban_sees_planted_code(file: str, code: str, wrong: bool) -> None:
    assert bool(_in(file, code, _bans)) is wrong


@pytest.mark.parametrize(
    ("file", "code", "wrong"),
    [
        ("train/options.py", "x = not isinstance(n, int) or isinstance(n, bool) or n < 1", True),
        ("train/options.py", "x = isinstance(n, bool) or not isinstance(n, int | float)", True),
        ("train/options.py", "x = type(n) is not int or n < 1", True),
        ("train/options.py", "from numbers import Integral", True),
        ("train/options.py", "raise InputError(f'{name} needs a whole number; got {n!r}.')", True),
        ("train/options.py", "require_whole(n, 'epochs')", False),
        ("train/options.py", "x = isinstance(flag, bool)", False),
        ("checks.py", "from numbers import Integral", False),
        ("train/run.py", "os.replace(a, b)", True),
        ("train/run.py", "path.replace(target)", True),
        ("train/run.py", "folder.rename(target)", True),
        ("train/run.py", "text.replace('a', 'b')", False),
        ("train/run.py", "batch.replace(x=x)", False),
        ("files.py", "os.replace(a, b)", False),
    ],
)
def test_the_check_of_one_place_sees_planted_code(file: str, code: str, wrong: bool) -> None:
    assert bool(_in(file, code, _repeats)) is wrong


@pytest.mark.parametrize(
    ("file", "code", "wrong"),
    [
        ("evaluate/bounds.py", "trace = poutine.trace(program)", True),
        ("evaluate/bounds.py", "pyro.poutine.trace(program).get_trace(x)", True),
        ("objectives/dirac.py", "handler.get_trace(*args, **kwargs)", True),
        ("objectives/dirac.py", "model(*args)", True),
        ("objectives/dirac.py", "self.programs.guide(*args)", True),
        ("programs/bound.py", "poutine.trace(program).get_trace(x)", False),
        ("weights/traces.py", "guide(x)", False),
        ("models/local_guide.py", "self.frozen.guide(x)", False),
        ("train/graph/trace.py", "trace(step, arguments)", False),
        ("train/step.py", "programs.trace_model()", False),
    ],
)
def test_the_check_of_runs_sees_planted_code(file: str, code: str, wrong: bool) -> None:
    assert bool(_in(file, code, _runs)) is wrong


@pytest.mark.parametrize(
    ("file", "code", "wrong"),
    [
        ("train/loop.py", "getattr(objective, 'labelled', 0)", True),
        ("train/loop.py", "hasattr(context.latent_model, 'classify')", True),
        ("linter/objective_rules.py", "operator.attrgetter('unranked')(objective)", True),
        ("evaluate/bounds.py", "getattr(model, 'fields')", True),
        ("train/divergence.py", "getattr(density, 'base_dist', None)", False),
        ("train/loop.py", "getattr(module, name)", False),
        ("programs/binding.py", "getattr(latent_model, 'fields', None)", False),
    ],
)
def test_the_check_of_attributes_sees_planted_code(file: str, code: str, wrong: bool) -> None:
    assert bool(_in(file, code, _getattrs)) is wrong
