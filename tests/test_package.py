"""The front door."""

import subprocess
import sys

import prism_hf


def test_every_public_name_is_there():
    for name in prism_hf.__all__:
        assert getattr(prism_hf, name).__name__ == name
    assert set(prism_hf.__all__) <= set(dir(prism_hf))


def test_import_loads_neither_torch_nor_transformers():
    code = "import prism_hf, sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
