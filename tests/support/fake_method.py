"""Round to nearest with a decision for fused sets, which can be made slow, or deadly in worker processes."""

import dataclasses
import os
import signal
import time

from compress.methods import rtn
from compress.methods.rtn import KIND, NEEDS, Config, check

__all__ = ["KIND", "NEEDS", "Config", "check", "shared", "solve"]
PARENT = "FAKE_METHOD_PARENT"
WHAT = "FAKE_METHOD_WHAT"


def shared(weights, config):
    """The bits tell how many were seen together."""
    assert all(w_NK.shape[1] == weights[0].shape[1] for w_NK in weights)
    return dataclasses.replace(config, bits=2 + len(weights))


def solve(w_NK, stats, config):
    what = os.environ.get(WHAT)
    elsewhere = os.environ.get(PARENT) not in (None, str(os.getpid()))
    if what == "slow":
        time.sleep(0.3)
    if what == "dies" and elsewhere:
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "fails" and elsewhere:
        raise ZeroDivisionError("a mistake in the method")
    return rtn.solve(w_NK, stats, config)
