"""Rules of the code base that a test can hold: who may use what, who may import whom, and what tools say."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cases import CASES

import quantrim as qt
from quantrim import _core, reference

ROOT = Path(__file__).parents[1]
CPP = sorted(p for p in ROOT.glob("cpp/**/*") if p.suffix in (".h", ".cpp", ".inc"))
PACKAGE = ROOT / "python" / "quantrim"
PYTHON = sorted(PACKAGE.rglob("*.py"))
SKIPPED_FOLDERS = {".git", ".hypothesis", "build", "dist", "__pycache__", ".venv", "results"}

def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def texts() -> Iterator[tuple[str, str]]:
    """Every file of the project that is text, with its name."""
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        if path.is_file() and not any(p in SKIPPED_FOLDERS or p.endswith(("_cache", ".egg-info")) for p in parts):
            try:
                yield name_of(path), path.read_text()
            except UnicodeDecodeError:
                continue


def holders(pattern: str, paths: list[Path]) -> set[str]:
    """The files in whose code, comments aside, the pattern occurs."""
    return {name_of(p) for p in paths if re.search(pattern, re.sub(r"//.*", "", p.read_text()))}


# One place for each worry


def test_openmp_lives_in_one_header() -> None:
    assert holders(r"#\s*pragma omp|\bomp\.h|\bomp_\w+\(", CPP) == {"cpp/parallel.h"}


INTRINSICS = "|".join(
    [
        r"\b_mm\d*_\w+",
        r"\b__m\d+\w*",
        r"\bv\w+q?_[fsup]\d+\b",
        r"\b(u?int|float)\d+x\d+(x\d)?_t\b",
        r"immintrin\.h",
        r"arm_neon\.h",
    ]
)


def test_intrinsics_live_in_leaves() -> None:
    """Registers and their instructions; a family needs none."""
    leaf = re.compile(r"cpp/kernels/(vec_(x86|avx512|avx2|sse4|neon)|dot\w*)\.h")
    others = {f for f in holders(INTRINSICS, CPP) if not leaf.fullmatch(f)}
    assert others == {"cpp/parallel.h"}  # MXCSR


def test_a_register_file_has_all_that_is_one_instruction_set_s() -> None:
    """Kernels ask for no instruction set; vec.h does once, to include one of the register files."""
    kernels = [p for p in CPP if p.parent.name == "kernels"]
    assert holders(r"__(AVX|SSE|F16C|x86_64|aarch64|ARM)", kernels) == {"cpp/kernels/vec.h"}


def test_kernels_are_plain() -> None:
    """No allocation, exceptions, threads or Python; of std only what vanishes in the compiler."""
    kernels = [p for p in CPP if p.parent.name == "kernels"]
    types = "remove_reference_t|integral_constant|true_type|false_type|is_same_v|conditional_t"
    forbidden = rf"\bthrow\b|\bnew\b|\bmalloc\b|\bthread|\bpy::|\bPy_|\bstd::(?!({types})\b)"
    assert holders(forbidden, kernels) == set()


FLOORS_OF_CPP = {  # what files of a folder may include, from below
    "kernels": r'"(\w+|\.\./kernels)\.h"|<(cstddef|type_traits|immintrin\.h|arm_neon\.h)>',
    "algorithms": r'"(\w+|\.\./(kernels|parallel))\.h"|<\w+>',
    "bindings": r'"(\w+|\.\./\w+|\.\./algorithms/\w+)\.h"|<.*>',
}


@pytest.mark.parametrize("folder", FLOORS_OF_CPP)
def test_lower_floors_of_cpp_do_not_include_upper_ones(folder: str) -> None:
    for path in (ROOT / "cpp" / folder).iterdir():
        for included in re.findall(r"^#include\s+(.*?)\s*$", path.read_text(), re.M):
            assert re.fullmatch(FLOORS_OF_CPP[folder], included), f"{name_of(path)} includes {included}"


KERNEL_HEADERS = [p for p in CPP if p.parent.name == "kernels" and p.suffix == ".h"]


@pytest.mark.parametrize("path", KERNEL_HEADERS, ids=lambda p: p.name)
def test_each_kernel_header_compiles_alone(path: Path) -> None:
    """As an editor sees it: it includes what it uses, and needs no name of an instruction set."""
    neon = path.name == "vec_neon.h"
    compiler = shutil.which("aarch64-linux-gnu-g++" if neon else "g++")
    if not compiler or not (neon or platform.machine() == "x86_64"):
        pytest.skip("needs g++ for x86-64, and aarch64-linux-gnu-g++ for NEON")
    levels = {"vec_avx512.h": "x86-64-v4", "vec_sse4.h": "x86-64-v2", "vec_neon.h": "armv8-a"}
    level = levels.get(path.name, "x86-64-v3")
    command = [compiler, "-std=c++20", f"-march={level}", "-w", "-fsyntax-only", "-x", "c++", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert path.read_text().count("#pragma once") == 1


@pytest.mark.promise("E113")
def test_the_lock_of_python_is_left_in_one_way() -> None:
    """pybind11's own guard ends the process where a thread computes at exit."""
    assert holders(r"gil_scoped_release|PyEval_\w+|Py_BEGIN_ALLOW_THREADS", CPP) == {"cpp/bindings/unlocked.h"}


def test_only_bindings_know_python() -> None:
    assert {Path(f).parent.name for f in holders(r"pybind11|Python\.h|\bPyObject\b", CPP)} == {"bindings"}


# Python floors, the lowest first: a module imports from lower floors and its own, never from above


def test_floors_of_python_hold_and_have_no_circles() -> None:
    """The contracts of pyproject.toml: lower floors import none above, layouts no files, and nothing in a circle."""
    run_tool("lint-imports", "--no-cache")


def test_no_heavy_import_at_run_time() -> None:
    """Dependencies of the library; those of the command line may appear in its own files only."""
    plain, cli = {"numpy", "ml_dtypes", "tomli", "tomllib"}, {"typer", "rich", "click"}
    for path in PYTHON:
        part = path.relative_to(PACKAGE).with_suffix("").parts[0]
        allowed = (
            plain | (cli if part in ("cli", "commands", "demo", "__main__") else set()) | set(sys.stdlib_module_names)
        )
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)) and not getattr(node, "level", 0):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                unknown = {n.split(".")[0] for n in names} - allowed - {"quantrim"}
                assert not unknown, f"{name_of(path)} imports {unknown}"


# One row, many readers


def kernels_of_reference() -> dict[str, Callable[..., Any]]:
    return {name: getattr(reference, name) for name in reference.__all__}


def stub_parameters() -> dict[str, list[str]]:
    tree = ast.parse((PACKAGE / "_core.pyi").read_text())
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef)]
    return {f.name: [a.arg for a in (*f.args.posonlyargs, *f.args.args)] for f in functions}


@pytest.mark.parametrize("name", reference.__all__)
def test_reference_compiled_module_and_stub_agree(name: str) -> None:
    """Same names, same parameters in the same order."""
    parameters = list(inspect.signature(getattr(reference, name)).parameters)
    documented = (getattr(_core, name).__doc__ or "").splitlines()[0]
    assert re.findall(r"(\w+): ", documented) == parameters
    assert stub_parameters()[name] == parameters


def test_the_compiled_module_has_nothing_more() -> None:
    machine = {
        "built_isas", "isas", "current_isa", "current_threads", "active", "choice_of", "choose_by",
        "float_mode", "use_float_mode", "usual_input", "bfloat16_from_dlpack",
    }  # fmt: skip
    compiled = {n for n in dir(_core) if not n.startswith("_")}
    assert compiled == machine | set(reference.__all__)
    assert set(stub_parameters()) == compiled


def test_cases_cover_every_kernel() -> None:
    assert {case.function for case in CASES} == set(reference.__all__)


def test_rows_of_the_kernel_table_are_used() -> None:
    table = "".join(p.read_text() for p in CPP if p.suffix == ".inc")
    rows = re.findall(r"^KERNEL\(\w+, (\w+),", table, re.M)
    callers = "".join(p.read_text() for p in CPP if p.parent.name in ("bindings", "algorithms"))
    assert len(rows) > 20
    assert [r for r in rows if not re.search(rf"(active\(\)|kernels_?)\.{r}\(", callers)] == []


def public_functions() -> list[tuple[str, Any]]:
    names = ("importance", "pruning", "quantization", "codebooks", "packing", "sparse", "distillation", "splitting")
    modules = [qt, *(getattr(qt, name) for name in names)]
    found = [(f"{m.__name__}.{n}", getattr(m, n)) for m in modules for n in m.__all__]
    return [(name, f) for name, f in found if callable(f) and "quantrim.model" not in f.__module__]


@pytest.mark.parametrize("name,function", public_functions(), ids=[n for n, _ in public_functions()])
def test_public_functions_show_an_example(name: str, function: Any) -> None:
    assert ">>> " in (inspect.getdoc(function) or ""), f"{name} needs a docstring with an example"


NO_VERBS = {"a", "an", "how", "the", "what", "where", "whether"}


@pytest.mark.parametrize("name,function", public_functions(), ids=[n for n, _ in public_functions()])
def test_public_functions_say_what_they_do_and_take(name: str, function: Any) -> None:
    """The docstring begins with an imperative; every parameter has a type that an editor can use."""
    first = (inspect.getdoc(function) or "").split()[0]
    assert first.isalpha() and first.lower() not in NO_VERBS, f"{name} does not {first}"
    signature = inspect.signature(function)
    types = {p.name: p.annotation for p in signature.parameters.values()} | {"return": signature.return_annotation}
    unknown = {n for n, t in types.items() if t in (inspect.Parameter.empty, "object", "Any")}
    assert unknown - ({"return"} if inspect.isclass(function) else set()) <= RETURNED_AS_GIVEN.get(name, set())


RETURNED_AS_GIVEN = {  # overloads say more
    "quantrim.splitting.split": {"w"},
    "quantrim.splitting.merge": {"return"},
}

USES = """
import numpy as np
import quantrim as qt
w = np.ones((4, 8))
good = qt.quantize(w, 4, group_size="channel", rounding="away", scales=[[1.0]] * 4)
qt.quantize([[1.0, 2.0]], rounding="evn")
qt.threshold(w, 0.5, mode="hard")
qt.quantize(w, group_size="row")
qt.prune(w, 0.5, sores=w)
qt.compare("a", "b").beauty
reveal_type(qt.prune(w, 0.5, scores=qt.importance.magnitude(w)))
reveal_type(good.codes())
reveal_type(qt.sparse.from_dense(w) @ [1.0] * 8)
reveal_type(qt.splitting.split(["a", "b"], 2))
"""


def test_editors_know_words_and_types(tmp_path: Path) -> None:
    """mypy finds the wrong words of a user, and none of the right ones."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    (tmp_path / "uses.py").write_text(USES)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, str(tmp_path / "uses.py")]
    environment = os.environ | {"MYPYPATH": str(PACKAGE.parent)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    own = [line for line in done.stdout.splitlines() if line.startswith("uses.py")]
    errors = [int(line.split(":")[1]) for line in own if ": error:" in line]
    assert errors == [6, 7, 8, 9, 10], done.stdout
    types = [line for line in own if "Revealed" in line]
    assert ["ndarray" in line for line in types] == [True, True, True, False] and "list[str]" in types[3]


# Compiled objects


def objects(pattern: str) -> list[Path]:
    found = sorted(p for p in ROOT.glob(f"build/**/{pattern}") if "sanitizers" not in p.parts)
    if not found:
        pytest.skip("no build tree: build the package from this folder (pip install -e . --no-build-isolation)")
    return found


def output_of(tool: str, *arguments: object) -> str:
    if not shutil.which(tool):
        pytest.skip(f"needs {tool} (package binutils)")
    return subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True, check=True).stdout


@pytest.mark.promise("F118")
def test_one_symbol_per_instruction_set() -> None:
    """What the linker could merge between instruction sets would put wide code on old processors."""
    for path in objects("kernels.cpp.o"):
        isa, family = path.parent.parent.name.removesuffix(".dir").split("-")
        defined = output_of("nm", "--demangle", "--defined-only", "--extern-only", path).splitlines()
        assert [line.split(maxsplit=2)[2] for line in defined] == [f"{isa}::{family}"]
        needed = {line.split()[-1] for line in output_of("nm", "--undefined-only", path).splitlines()}
        assert needed <= {
            "memcpy",
            "memset",
            "memmove",
            "memcmp",
            "__stack_chk_fail",
            "_GLOBAL_OFFSET_TABLE_",
        }


def instructions(path: Path) -> str:
    return output_of("objdump", "--disassemble", "--no-show-raw-insn", "-M", "intel", path)


@pytest.mark.promise("F118")
def test_no_wide_instructions_outside_the_kernels() -> None:
    for path in objects("CMakeFiles/_core.dir/**/*.o"):
        code = instructions(path)
        if "x86-64" in code.splitlines()[1]:
            assert not re.search(r"\b[xyz]mm\d+.*\b[yz]mm|\b[yz]mm\d|\t(v[a-z]+\s+xmm|lzcnt|andn|shlx|shrx|sarx)", code)


@pytest.mark.promise("F118")
def test_each_instruction_set_keeps_to_its_own() -> None:
    beyond = {"x86_v2": r"\b[yz]mm\d|\tv[a-z]+\s+xmm|\tlzcnt", "x86_v3": r"\bzmm\d|\{k\d\}|\t(vpdpb|kmov)"}
    for path in objects("kernels.cpp.o"):
        isa = path.parent.parent.name.split("-")[0]
        if isa in beyond:
            assert not re.search(beyond[isa], instructions(path)), isa


# The tree as a whole


def test_versions_agree() -> None:
    """That of the installed package is read from the module, for what is installed from here."""
    assert importlib.metadata.version("quantrim") == qt.__version__


def asked_for_layouts(text: str) -> list[str]:
    """Questions of code which layout or format it has: what it does follows from the protocol alone."""
    layouts = "Layout|Plain|CompressedTensors|Codes|Sparse|BitsAndBytes|Variant|Flat|Int8|CompressedSparse"
    return re.findall(rf"isinstance\([^)\n]*\b(?:{layouts})\b[^)\n]*\)", text)


def test_nobody_asks_which_layout_it_has() -> None:
    """But a layout's own file, of the layouts of one model: for a config that is of all of them together."""
    assert asked_for_layouts("if isinstance(tensor.layout, (Codes, BitsAndBytes)):")
    found = {name_of(p) for p in PYTHON if asked_for_layouts(p.read_text())}
    assert found == {f"python/quantrim/layouts/{name}.py" for name in ("bitsandbytes", "compressed_tensors")}


NO_VERB = re.compile(
    "(A|All|An|And|As|At|Both|By|Each|Every|False|For|From|How|If|In|Its|No|None|Of|On|One|Our|Some|That|The|These|"
    r"They|This|Those|To|True|Two|What|When|Where|Whether|Which|Who|Why|With|Within)\b"
)


def without_verb(source: str) -> list[str]:
    """Functions and methods, properties aside, whose docstring does not begin with a verb."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    methods = [f for f in functions if not any("property" in ast.unparse(each) for each in f.decorator_list)]
    return [f.name for f in methods if NO_VERB.match(ast.get_docstring(f) or "")]


def test_docstrings_begin_with_a_verb() -> None:
    """What ruff's D401 does not know: it takes most nouns and question words for verbs."""
    planted = 'def f(): "Whether it is."\ndef g(): "Return it."\n@property\ndef h(): "The sum."'
    assert without_verb(planted) == ["f"] and without_verb(planted.replace("@property", "")) == ["f", "h"]
    paths = [p for p in PYTHON if "files" not in p.parts and p.name != "targets.py"]
    found = {name_of(p): without_verb(p.read_text()) for p in [*paths, *(ROOT / "bench").glob("*.py")]}
    assert {name: names for name, names in found.items() if names} == {}


def test_no_machine_is_named() -> None:
    """Neither folders of somebody's machine nor hosts that build or serve packages."""
    folders = r"(?<![\w.])/(work|home|root|Users|mnt)/\w|[A-Z]:\\\\?Users"
    hosts = r"\b(gitlab|jenkins|travis-ci|circleci|buildkite|appveyor|artifactory|index-url)\b"
    found = {name for name, text in texts() if re.search(folders, text) or re.search(hosts, text.lower())}
    assert found - {name_of(Path(__file__))} == set()


def run_tool(*command: str) -> None:
    if not shutil.which(command[0], path=str(Path(sys.executable).parent)) and not shutil.which(command[0]):
        pytest.skip(f"needs {command[0]}: pip install quantrim[test]")
    beside = Path(sys.executable).parent / command[0]
    tool = str(beside) if beside.exists() else command[0]
    done = subprocess.run([tool, *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff() -> None:
    run_tool("ruff", "check", ".")


def test_mypy() -> None:
    run_tool("mypy")


def test_clang_format() -> None:
    run_tool("clang-format", "--dry-run", "-Werror", *map(str, CPP))
