"""Independent implementations that models are compared with; a test is skipped, with the reason, where one is missing."""

from __future__ import annotations

from functools import cache
from types import ModuleType

import pytest
import torch


def timm() -> ModuleType:
    """The module ``timm``, with its ``layers`` and ``models``."""
    try:
        _torchvision()
        return pytest.importorskip("timm")
    except RuntimeError as error:
        pytest.skip(f"timm cannot be imported: {error}")


def monai() -> ModuleType:
    """The module ``monai``, with its ``networks``."""
    pytest.importorskip("einops")  # MONAI imports without it, but its attention does not run
    pytest.importorskip("monai.networks.nets")
    return pytest.importorskip("monai")


@cache  # operators last only as long as the library that declares them
def _torchvision() -> torch.library.Library | None:
    """Makes ``import torchvision`` work beside a torch that its compiled operators were not built for.

    Its Python code describes two operators at import and fails where they do not exist; timm calls neither, so it is
    enough to declare them.
    """
    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError:
        return None
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
    return None
