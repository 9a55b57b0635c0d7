"""What is said, and done, where open3d does not import."""

from __future__ import annotations

import ctypes
import importlib
import importlib.machinery
import sys
from types import ModuleType

import pytest

from readers import open3d_import

MISSING = "libusb-1.0.so.0: cannot open shared object file: No such file or directory"


@pytest.fixture
def bare(monkeypatch):
    """A machine on which importing open3d fails until libusb is loaded; returns what was loaded."""
    loaded: list[str] = []

    def load(name: str) -> ModuleType:
        assert name == "open3d"
        if not loaded:
            sys.modules["open3d.half"] = ModuleType("open3d.half")
            raise OSError(MISSING)
        assert "open3d.half" not in sys.modules
        return ModuleType("open3d")

    monkeypatch.setattr(importlib, "import_module", load)
    monkeypatch.setattr(ctypes, "CDLL", lambda path, mode: loaded.append(path))
    return loaded


def test_libusb_of_a_wheel_is_loaded_first(bare, tmp_path, monkeypatch):
    wheel = tmp_path / open3d_import.LIBUSB_WHEEL
    wheel.mkdir()
    (wheel / "__init__.py").write_text("raise SystemError")
    (wheel / "libusb-1.0.so").write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert open3d_import.load_open3d().__name__ == "open3d"
    assert bare == [str(wheel / "libusb-1.0.so")]


def test_without_it_the_error_says_what_to_install(bare, monkeypatch):
    monkeypatch.setattr(open3d_import, "LIBUSB_WHEEL", "no_such_wheel")
    with pytest.raises(ImportError, match=r"libusb-1\.0\.so\.0: cannot open.*pip install libusb-package"):
        open3d_import.load_open3d()


def test_other_reasons_are_passed_on(monkeypatch):
    def load(name: str) -> ModuleType:
        raise ImportError("GLIBC_2.99 not found")

    monkeypatch.setattr(importlib, "import_module", load)
    with pytest.raises(ImportError, match="open3d cannot be imported: GLIBC_2.99 not found"):
        open3d_import.load_open3d()


def test_the_status_names_the_version_or_the_reason(tmp_path, monkeypatch):
    (tmp_path / "open3d").mkdir()
    package = tmp_path / "open3d" / "__init__.py"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(open3d_import, "LIBUSB_WHEEL", "no_such_wheel")
    package.write_text("__version__ = '9.8'")
    spec = importlib.machinery.ModuleSpec("open3d", None)
    monkeypatch.setattr(open3d_import.importlib.util, "find_spec", lambda name: spec)
    assert open3d_import.open3d_status() == (True, "open3d 9.8")
    package.write_text("raise ImportError('libzip.so.9: cannot open shared object file')")
    fine, reason = open3d_import.open3d_status()
    assert not fine and "libzip.so.9: cannot open shared object file" in reason
    package.write_text("import os; os.abort()")
    fine, reason = open3d_import.open3d_status()
    assert not fine and "ended with -6" in reason
    monkeypatch.setattr(open3d_import.importlib.util, "find_spec", lambda name: None)
    assert open3d_import.open3d_status() == (False, "open3d is not installed; pip install open3d")
