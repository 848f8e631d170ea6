"""How the threads of numerical libraries wait for one another. To be settled before torch is loaded, which reads it once."""

from __future__ import annotations

from collections.abc import MutableMapping

# A thread of GNU OpenMP that is done spins 300,000 times, some tenths of a millisecond at least, before it sleeps: far longer
# where the thread that it waits for has no core, since it may keep that from getting one. In 20 s on 2 cores a convolutional
# net took 719 and 793 steps so, and 748 and 769 with 1,000 spins (522 and 567 without any); beside a program that computes all
# the time 8 and 10, and 278 with 1,000. The library itself spins 1,000 times once it has more threads than cores.
_SPINS = "1000"
_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def spin_briefly(environment: MutableMapping[str, str]) -> None:
    """Let the threads of processes with this environment soon sleep when they wait, unless the user has settled it."""
    if not any(name in environment for name in _SETTINGS):
        environment["GOMP_SPINCOUNT"] = _SPINS
