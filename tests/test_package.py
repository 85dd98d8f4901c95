import ast
import subprocess
import sys
from pathlib import Path

import pytest

import angel_trl


def test_importing_the_package_is_quick_and_loads_no_framework():
    code = (
        # Of the processor, not of a clock: the machine may be busy with something else.
        "import sys, time; begin = time.process_time(); import angel_trl; seconds = time.process_time() - begin\n"
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'sklearn', 'huggingface_hub'} & set(sys.modules)\n"
        "print(seconds, sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, heavy = done.stdout.strip().split(" ", 1)
    assert float(seconds) < 0.5
    assert heavy == "[]"


@pytest.mark.parametrize("name", angel_trl.__all__)
def test_every_public_name_resolves_and_says_what_it_is(name):
    value = getattr(angel_trl, name)
    assert name in dir(angel_trl)
    assert name in ("MENTION_FEATURES", "__version__") or value.__doc__


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(angel_trl.__file__).read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert seen == {name: f"angel_trl.{module}" for name, module in angel_trl._MODULE_OF.items()}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'angel_trl' has no attribute 'Linker'"):
        _ = angel_trl.Linker


def test_a_star_import_brings_the_public_names():
    namespace = {}
    exec("from angel_trl import *", namespace)
    assert set(angel_trl.__all__) <= set(namespace)


def test_the_version_is_that_of_the_distribution():
    pyproject = Path(__file__).resolve().parents[1] / "pyproject.toml"
    assert f'version = "{angel_trl.__version__}"' in pyproject.read_text(encoding="utf-8")
