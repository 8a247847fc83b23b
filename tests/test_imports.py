"""Order of imports, by the import statements of every file."""

import ast
import functools
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# From the bottom to the top: a room may import those below it, and none beside it or above.
LAYERS = [
    {"config"},
    {"files"},
    {"losses", "schedules", "loss_scale", "augment", "images"},
    {"metrics"},
    {"terminal"},
    {"distribution", "data", "rendering"},
    {"models", "optimizers"},
    {"tasks", "runs"},
    {"interop"},
    {"training"},
    {"evaluation"},
    {"suites", "preparation"},
    {"report"},
    {"workflows"},
]
# The only modules that lie loose in the package.
LOOSE = {"__init__", "__main__", "files", "losses", "loss_scale", "optimizers", "schedules"}
SHARED_BY_TASKS = {"tf_simclr.tasks.base", "tf_simclr.tasks.negative_queue"}
PURE = ("losses", "schedules", "loss_scale", "augment", "images")
BELOW_TRAINING = {"config", "files", "augment", "images", "terminal", "models", "runs", "interop"}
LIBRARY_FOR = {"flags": {"", "config", "files"}, "exports": BELOW_TRAINING}
COLLECTIVES = {"all_reduce", "all_gather", "reduce", "get_replica_context", "replica_id_in_sync_group", "merge_call"}

# Whoever reads one of these runs what is written in it.
UNSAFE = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml"}


def sources(*folders):
    for folder in folders:
        yield from sorted(path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py"))


PROGRAM = [pathlib.Path("run.py"), pathlib.Path("tf_simclr/__main__.py")]
LIBRARY = [path for path in sources("tf_simclr") if path not in PROGRAM]
OTHERS = [*PROGRAM, *sources("flags", "exports", "benchmarks")]


@functools.cache
def parse(path):
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def is_module(name):
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").exists()


def names_of(statement):
    """The dotted names that one statement imports; `from package import module` names the module."""
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    assert statement.level == 0, f"relative import in line {statement.lineno}"
    whole = [f"{statement.module}.{alias.name}" for alias in statement.names]
    return [name if is_module(name) else statement.module for name in whole]


def imports(path, at_load_only=False):
    """All dotted names that a file imports, those inside functions too unless `at_load_only`."""
    nodes = parse(path).body if at_load_only else ast.walk(parse(path))
    statements = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    return {name for statement in statements for name in names_of(statement)}


def part_of(name):
    """`tf_simclr.models.resnet` and `tf_simclr/models/resnet.py` are of the part `models`."""
    return name.removesuffix(".py").replace("/", ".").removeprefix("tf_simclr").strip(".").split(".")[0]


def library_parts(path):
    return {part_of(name) for name in imports(path) if name.split(".")[0] == "tf_simclr"}


def packages(paths):
    """The top-level packages that files import."""
    return {name.split(".")[0] for path in paths for name in imports(path)}


def layer_of(part):
    levels = [level for level, parts in enumerate(LAYERS) if part in parts]
    assert len(levels) == 1, f"{part} has no place among the layers"
    return levels[0]


def test_library_imports_downwards_only():
    files = [path for path in LIBRARY if len(path.parts) > 2 or path.stem in LOOSE - {"__init__", "__main__"}]
    parts = {path: part_of(path.as_posix()) for path in files}
    pairs = [(path, other) for path in files for other in library_parts(path) - {parts[path]}]
    assert [pair for pair in pairs if layer_of(pair[1]) >= layer_of(parts[pair[0]])] == []


def test_no_module_lies_loose_but_pure_mathematics_and_files():
    assert {path.stem for path in LIBRARY if len(path.parts) == 2} <= LOOSE


@pytest.mark.parametrize("part", PURE)
def test_pure_part_imports_tensorflow_alone(part):
    names = {name for path in LIBRARY if part_of(path.as_posix()) == part for name in imports(path)}
    foreign = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert foreign <= {"tensorflow", "tf_simclr"}
    assert {part_of(name) for name in names if name.split(".")[0] == "tf_simclr"} <= {part}


def test_library_knows_neither_flags_nor_exports():
    assert not packages(LIBRARY) & {"flags", "exports", "benchmarks", "run", "absl"}


def test_tasks_do_not_know_of_each_other():
    tasks = [path for path in sources("tf_simclr/tasks") if path.stem not in ("__init__", "base", "negative_queue")]
    assert tasks
    for path in tasks:
        assert {name for name in imports(path) if name.startswith("tf_simclr.tasks")} <= SHARED_BY_TASKS


@pytest.mark.parametrize("name", ["loop", "evaluation_loop"])
def test_loop_knows_no_task(name):
    assert "tasks" not in library_parts(pathlib.Path(f"tf_simclr/training/{name}.py"))


@pytest.mark.parametrize(("part", "others"), [("config", set()), ("terminal", {"config", "files", "tqdm"})])
def test_config_and_terminal_load_hardly_more_than_the_standard_library(part, others):
    names = {name for path in sources(f"tf_simclr/{part}") for name in imports(path, at_load_only=True)}
    foreign = {name for name in names if name.split(".")[0] not in sys.stdlib_module_names}
    assert {part_of(name) for name in foreign} <= {part} | others


@pytest.mark.parametrize("folder", LIBRARY_FOR)
def test_flags_and_exports_import_what_they_may(folder):
    files = list(sources(folder))
    assert set().union(*map(library_parts, files)) <= LIBRARY_FOR[folder]
    assert not packages(files) & ({"flags", "exports", "benchmarks", "run"} - {folder})


def test_flags_load_no_tensorflow():
    assert "tensorflow" not in packages(sources("flags"))


def test_flags_are_read_in_one_place():
    for path in [*LIBRARY, *OTHERS]:
        nodes = [node for node in ast.walk(parse(path)) if isinstance(node, ast.Name | ast.Attribute)]
        names = {getattr(node, "id", getattr(node, "attr", None)) for node in nodes}
        assert "FLAGS" not in names or path.parts == ("flags", "convert.py"), path


def test_collectives_have_one_home():
    """Nothing but `distribution.collectives` asks a replica context for anything."""
    for path in LIBRARY:
        calls = [node.func for node in ast.walk(parse(path)) if isinstance(node, ast.Call)]
        used = {call.attr for call in calls if isinstance(call, ast.Attribute)}
        assert not used & COLLECTIVES or path.name == "collectives.py", path


def test_nothing_reads_or_writes_a_pickle():
    assert not packages([*LIBRARY, *OTHERS]) & UNSAFE
    for path in [*LIBRARY, *OTHERS]:
        nodes = list(ast.walk(parse(path)))
        options = [node for node in nodes if isinstance(node, ast.keyword) and node.arg == "allow_pickle"]
        assert {ast.unparse(option.value) for option in options} <= {"False"}, path
        attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
        assert not [node for node in attributes if "pickle" in node.attr], path
        assert not {"torch.load", "torch.save"} & {ast.unparse(node) for node in attributes}, path


def test_modules_do_not_import_each_other_in_circles():
    graph = {}
    for path in LIBRARY:
        module = path.with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        graph[module] = {name for name in imports(path, at_load_only=True) if name.startswith("tf_simclr.")}
    while graph:
        done = {module for module, needed in graph.items() if not (needed - {module}) & graph.keys()}
        assert done, f"a circle among {sorted(graph)}"
        graph = {module: needed for module, needed in graph.items() if module not in done}


def test_package_and_config_load_no_tensorflow():
    program = "import sys, tf_simclr, tf_simclr.config; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
