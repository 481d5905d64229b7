"""Which kernel runs, and what is said when one cannot."""

from __future__ import annotations

import pytest
import torch

from compress.errors import CompressError
from compress.format.manifest import known_layouts
from compress.format.scheme import Scheme
from compress.kernels import reference, select
from compress.kernels.select import Accepted, Rejected

SCHEME = Scheme(layout="int_group.v1", bits=4, group_size=32, options={"scale_dtype": "float16"})


def test_the_reference_runs_everything_and_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(select.FORCE, "reference")
    assert select.select(SCHEME, (64, 64), "cpu") == Accepted("reference")
    assert select.require(SCHEME, (64, 64), "cpu") is reference


def test_without_force_some_kernel_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(select.FORCE, raising=False)
    assert isinstance(select.select(SCHEME, (64, 64), "cpu"), Accepted)


def test_an_unknown_kernel_gets_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(select.FORCE, "referense")
    answer = select.select(SCHEME, (64, 64), "cpu")
    assert isinstance(answer, Rejected) and "did you mean 'reference'?" in answer.reason


@pytest.mark.parametrize("kernel", select.KERNELS)
def test_a_forced_kernel_runs_or_fails_with_its_reason(monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    monkeypatch.setenv(select.FORCE, kernel)
    answer = select.ask(kernel, SCHEME, (64, 64), torch.device("cpu"))
    if isinstance(answer, Accepted):
        assert select.require(SCHEME, (64, 64), "cpu").reject(SCHEME, (64, 64), torch.device("cpu")) is None
    else:
        with pytest.raises(CompressError, match=f"COMPRESS_KERNEL={kernel} cannot run int_group.v1"):
            select.require(SCHEME, (64, 64), "cpu")


def test_the_table_has_a_row_for_every_kernel_and_layout() -> None:
    rows = list(select.table())
    assert {(kernel, layout) for kernel, layout, _ in rows} == {
        (k, lay) for k in select.KERNELS for lay in known_layouts()
    }
    assert all(answer == Accepted("reference") for kernel, _, answer in rows if kernel == "reference")
