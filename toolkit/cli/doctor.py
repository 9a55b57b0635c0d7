"""``toolkit doctor``."""

from __future__ import annotations

from toolkit.cli.console import Debug, Json, put, put_json, reports

PACKAGES = (
    "torch",
    "typer",
    "mne",
    "wfdb",
    "nibabel",
    "librosa",
    "soundfile",
    "pyarrow",
    "safetensors",
    "numpy",
    "scipy",
    "sklearn",
    "pandas",
    "matplotlib",
    "pydantic",
    "rich",
)


@reports
def doctor(json_: Json = False, debug: Debug = False) -> int:
    """Say whether this machine is ready: packages, device, cores, recipes.

    Keys of --json: ok checks[{name ok detail}]. Exit 1 when a check fails.
    """
    checks = [*(_imports(name) for name in PACKAGES), _open3d(), _device(), _cores(), _recipes()]
    ok = all(c["ok"] for c in checks)
    if json_:
        put_json({"ok": ok, "checks": checks})
    else:
        for check in checks:
            put(f"{'ok  ' if check['ok'] else 'FAIL'} {check['name']:12} {check['detail']}")
    return 0 if ok else 1


def _imports(name: str) -> dict[str, object]:
    import contextlib
    import importlib
    import importlib.metadata
    import sys
    import warnings

    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            module = importlib.import_module(name)
    except Exception as problem:  # a broken system library shows up as any kind of exception
        return {"name": name, "ok": False, "detail": f"cannot be imported: {problem}"}
    return {"name": name, "ok": True, "detail": str(getattr(module, "__version__", None) or importlib.metadata.version(name))}


def _open3d() -> dict[str, object]:
    from readers.open3d_import import open3d_status

    ok, detail = open3d_status()
    if not ok:
        detail += "; PLY, PCD, XYZ, PTS, OFF, OBJ, NPY, NPZ and LAS are read without it"
    return {"name": "open3d", "ok": ok, "detail": detail}


def _device() -> dict[str, object]:
    import torch

    from toolkit import machine

    device = machine.use_device("auto")
    name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
    return {"name": "device", "ok": True, "detail": f"{name}, bf16 {'yes' if machine.use_bf16('auto', device) else 'no'}"}


def _cores() -> dict[str, object]:
    from toolkit import machine

    return {"name": "cores", "ok": True, "detail": f"{machine.available_cores()} usable"}


def _recipes() -> dict[str, object]:
    from toolkit import recipe

    for name in recipe.names():
        recipe.resolve(name)
    return {"name": "recipes", "ok": bool(recipe.names()), "detail": ", ".join(recipe.names())}
