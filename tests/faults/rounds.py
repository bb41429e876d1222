"""How much is tried: FAULT_ROUNDS in the environment is the number of rounds of each fault.

Without it the tests take their short form, which tries each fault once or twice. FAULT_SEED makes
the choice of victims and moments that of an earlier run, though not the servers' speed.
"""

import os
import random

import pytest

LONG = "FAULT_ROUNDS" in os.environ
ROUNDS = int(os.environ.get("FAULT_ROUNDS", "1"))
SEED = int(os.environ.get("FAULT_SEED", str(random.randrange(1 << 30))))

in_long_form = pytest.mark.skipif(not LONG, reason="only with FAULT_ROUNDS")

IDLE = 3
"""Seconds of ExecutionMaxIdleTime."""
LIMIT = IDLE + 15
"""Seconds after which a client hangs; generous, since the machine may be busy."""


def dice(name):
    print(f"FAULT_SEED={SEED}")
    return random.Random(f"{SEED} {name}")
