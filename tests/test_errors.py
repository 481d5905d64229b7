"""Errors of libraries become ours; requests to stop do not."""

from __future__ import annotations

import pytest

from compress.errors import CompressError, FormatError, ModelError, first_line, translated


@pytest.mark.parametrize("kind", [Exception, ZeroDivisionError, RecursionError, OSError, AssertionError])
def test_whatever_a_library_raises_is_translated(kind: type[Exception]) -> None:
    error = kind("bare")
    message = r"it cannot be opened: .*bare\. Allowed: this\. Do that\."
    with (
        pytest.raises(FormatError, match=message) as caught,
        translated("it cannot be opened", kind=FormatError, allowed="this", do="Do that"),
    ):
        raise error
    assert caught.value.__cause__ is error


def test_a_panic_of_rust_code_is_translated() -> None:
    class PanicException(BaseException):
        pass

    with pytest.raises(ModelError, match="PanicException: out of range"), translated("it cannot be opened"):
        raise PanicException("out of range\nnote: run with RUST_BACKTRACE=1")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), MemoryError(), CompressError("ours")])
def test_ours_and_requests_to_stop_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, translated("it cannot be opened"):
        raise error
    assert caught.value is error


def test_the_first_line_of_an_error() -> None:
    assert first_line(ValueError("\n one\ntwo")) == "one"
    assert first_line(KeyError()) == "KeyError"
    assert first_line(ValueError("hidden_size:\n    not an int\nthree")) == "hidden_size: not an int"
    assert first_line(ValueError("hidden_size:")) == "hidden_size:"
