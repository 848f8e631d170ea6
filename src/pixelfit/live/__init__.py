"""Pages on loopback: ``--live`` follows a running search, ``pixelfit ui`` lists the runs that there are."""

from pixelfit.live.listing import RunList
from pixelfit.live.server import LoopbackServer
from pixelfit.live.view import LiveView

__all__ = ["LiveView", "LoopbackServer", "RunList"]
