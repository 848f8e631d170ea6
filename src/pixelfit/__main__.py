"""``python -m pixelfit`` is the command ``pixelfit``."""

from pixelfit.cli import main

main()
