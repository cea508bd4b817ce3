"""The number format of training."""

import pytest
import torch

from condu_cli.backbone.base_models import load_base
from condu_cli.backbone.precision import resolve_precision
from condu_cli.errors import UsageError


class OnGpu:
    """A model as if it were on a GPU."""

    device = torch.device("cuda")

    def __init__(self, *, fast: bool) -> None:
        self.fast_in_bfloat16 = fast


def supports(monkeypatch, native, emulated=True):
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: emulated if including_emulation else native,
    )


def test_a_cpu_trains_in_float32_unless_told_otherwise():
    assert resolve_precision("auto", load_base("tiny")) == "float32"
    assert resolve_precision("bfloat16", load_base("tiny")) == "bfloat16"


@pytest.mark.parametrize(
    ("native", "fast", "expected"),
    [(True, True, "bfloat16"), (True, False, "float32"), (False, True, "float32")],
)
def test_a_gpu_trains_transformers_in_bfloat16_if_it_computes_in_it(
    monkeypatch, native, fast, expected
):
    supports(monkeypatch, native)
    assert resolve_precision("auto", OnGpu(fast=fast)) == expected


def test_a_gpu_that_cannot_is_not_asked_to(monkeypatch):
    supports(monkeypatch, native=False, emulated=False)
    with pytest.raises(UsageError, match="does not support bfloat16"):
        resolve_precision("bfloat16", OnGpu(fast=True))


def test_an_unknown_format_is_refused():
    with pytest.raises(UsageError, match="unknown number format 'float8'"):
        resolve_precision("float8", load_base("tiny"))
