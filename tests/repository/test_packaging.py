"""What a user installs: wheel and sdist hold every file that the package needs, and importing is cheap."""

from __future__ import annotations

import ast
import configparser
import importlib
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from public_names import public_homes

import pvae

ROOT = Path(__file__).resolve().parents[2]


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.strip()


def test_import_pvae_imports_neither_torch_nor_numpy() -> None:
    loaded = _python("import sys, pvae; dir(pvae); print(sorted({'torch', 'pyro', 'numpy'} & set(sys.modules)))")
    assert loaded == "[]"


# Mixtures are estimators of scikit-learn, which imports the others; comparisons train mixtures too, and draw figures.
IMPORT_EVERY_NAME = """
import sys, pvae
late = {"GaussianMixture", "em", "compare", "plots", "report"}
for name in sorted(pvae.__all__, key=late.__contains__):
    slow = {"matplotlib", "pandas", "scipy.stats", "sklearn"} & set(sys.modules)
    assert name in late or not slow, (slow, name)
    value = getattr(pvae, name)
    assert name not in ("evaluate", "plots", "weights") or value.__name__ == f"pvae.{name}", value
"""


@pytest.mark.paths
def test_importing_every_name_prints_nothing_and_no_slow_library_is_imported_early() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error::UserWarning",
            "-c",
            IMPORT_EVERY_NAME,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", sorted(public_homes()))
def test_public_name_is_the_object_of_its_home(name: str) -> None:
    home = importlib.import_module(public_homes()[name])
    assert getattr(pvae, name) is getattr(home, name)
    assert name in home.__all__


def test_all_and_dir_list_exactly_the_names_of_the_stub() -> None:
    assert set(public_homes()) | {"__version__"} == {
        name for name in pvae.__all__ if not isinstance(getattr(pvae, name), types.ModuleType)
    }
    assert set(pvae.__all__) - {"__version__"} == set(dir(pvae))


def test_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="No pvae attribute fitt"):
        pvae.fitt  # noqa: B018


def _requirements(key: str, section: str = "options") -> list[str]:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return [re.split(r"[<>=\[;]", line)[0].strip() for line in parser[section][key].split("\n") if line.strip()]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_constraints_pin_every_requirement() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {_normal(line.split("==")[0]) for line in lines}
    assert all("==" in line and "+" not in line for line in lines)
    needed = _requirements("install_requires")
    for extra in ("test", "docs", "release"):
        needed += _requirements(extra, "options.extras_require")
    assert {_normal(name) for name in needed} <= pinned


def test_every_import_of_the_package_is_required() -> None:
    """A library that only arrives because another one needs it may stop arriving."""
    required = {_normal(name) for name in _requirements("install_requires")}
    homes = importlib.metadata.packages_distributions()
    missing = set()
    for path in (ROOT / "pvae").rglob("*.py"):
        for name in re.findall(r"^\s*(?:import|from) ([A-Za-z_]\w*)", path.read_text(), flags=re.M):
            if name in sys.stdlib_module_names or name == "pvae" or name not in homes:
                continue
            if not required & {_normal(home) for home in homes[name]}:
                missing.add(f"{path.relative_to(ROOT)}: {name}")
    assert not missing, f"add to install_requires in setup.cfg: {sorted(missing)}"


def test_scripts_import_names_that_exist() -> None:
    root = Path(pvae.__file__).parents[1]
    missing = []
    for path in [*root.glob("benchmarks/**/*.py"), *root.glob("docs/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "pvae":
                module = importlib.import_module(node.module or "")
                for name in (alias.name for alias in node.names if not hasattr(module, alias.name)):
                    try:
                        importlib.import_module(f"{node.module}.{name}")
                    except ImportError:
                        missing.append(f"{path.name}: {node.module}.{name}")
    assert missing == []


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with a wheel and an sdist built from a copy of the sources."""
    source = tmp_path_factory.mktemp("source")
    ignore = shutil.ignore_patterns("__pycache__", "_build", "generated")
    for name in ("pvae", "docs", "tests", "benchmarks", "conda"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, source)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", "."]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return source / "dist"


def _package_files() -> set[str]:
    kinds = {".py", ".j2", ".css", ".js", ".typed"}
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "pvae").rglob("*")
        if path.suffix in kinds or path.name == "py.typed"
    }


@pytest.mark.paths
def test_wheel_holds_every_file_of_the_package(distributions: Path) -> None:
    (wheel,) = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry = next(name for name in names if name.endswith("entry_points.txt"))
        assert "pvae = pvae.__main__:main" in archive.read(entry).decode()
    assert "pvae/py.typed" in names
    assert any(name.startswith("pvae/report/") and name.endswith(".j2") for name in names)
    assert _package_files() <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith("tests/") for name in names)


def test_sdist_holds_every_file_of_the_package(distributions: Path) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert _package_files() <= names
    assert {"LICENSE", "README.md", "CHANGELOG.md", "constraints.txt", "setup.cfg", "conda/meta.yaml"} <= names
    assert {path.relative_to(ROOT).as_posix() for path in _other_sources()} <= names


def _other_sources() -> Iterator[Path]:
    """Yield the files of tests and benchmarks that git does not ignore, as far as their kinds show it."""
    for folder in ("tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".txt", ".js", ".json", ".md") and "__pycache__" not in path.parts:
                yield path


@pytest.mark.parametrize(
    ("module", "arguments", "pattern"),
    [("twine", ("check", "--strict"), "*"), ("check_wheel_contents", (), "*.whl")],
    ids=["twine", "check-wheel-contents"],
)
def test_a_release_has_no_fault_that_the_tools_see(
    module: str, arguments: tuple[str, ...], pattern: str, distributions: Path
) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed: make build, or pip install 'pvae[release]'")
    files = sorted(map(str, distributions.glob(pattern)))
    command = [sys.executable, "-m", module, *arguments, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert files and done.returncode == 0, done.stdout + done.stderr


def test_the_citation_names_this_version() -> None:
    lines = (ROOT / "CITATION.cff").read_text("utf-8").splitlines()
    assert f"version: {pvae.__version__}" in lines
