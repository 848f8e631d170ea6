"""The button that ends a search from another thread."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType


class StopButton:
    """Ends a search as Ctrl-C does, and only once: a second Ctrl-C would end the command without a result.

    It is live from ``arm``, which the search calls in the main thread, until the search's handler of Ctrl-C is taken
    down, and until somebody has pressed it or Ctrl-C itself.
    """

    def __init__(self) -> None:
        self.pressed = False  # a plain flag and no lock: a signal's handler may run while the main thread holds one
        self._noted: Callable[[int, FrameType | None], object] | None = None
        self._one_at_a_time = threading.Lock()

    @property
    def ready(self) -> bool:
        """Whether a press would end the search."""
        return not self.pressed and self._noted is not None and signal.getsignal(signal.SIGINT) is self._noted

    def arm(self) -> None:
        """From now on a press ends the search, if the main thread has a handler that ends it in order."""
        before = signal.getsignal(signal.SIGINT)
        if self._noted is not None or threading.current_thread() is not threading.main_thread():
            return
        if not callable(before) or before is signal.default_int_handler:
            return  # this Ctrl-C would end the command

        def noted(number: int, frame: FrameType | None) -> None:
            self.pressed = True  # whoever it was: after a Ctrl-C in the terminal a press must do nothing
            before(number, frame)

        self._noted = noted
        signal.signal(signal.SIGINT, noted)  # the search puts back the handler from before it, and so takes this one away

    def press(self) -> bool:
        """End the search; False if it is not running, or about to end already."""
        with self._one_at_a_time:
            if not self.ready:
                return False
            self.pressed = True
        signal.raise_signal(signal.SIGINT)  # Python runs its handler in the main thread, whichever thread raises it
        return True
