"""The exceptions pixelfit raises for what a user can mend.

PixelfitError
├── OptionError       an option or argument has a value that cannot be used
├── DataError         pictures, tables or targets cannot be used as they are
│   ├── DownloadError a named data set could not be fetched
│   └── ShardError    a shard of pictures is gone, has changed, or cannot be reached
├── RunError          a run folder is missing, incomplete or in the way
└── SearchError       no trial gave a usable model

Each message is one sentence or two: what was wrong, with which file, row or option, and what to do about it.
The command line prints it and ends with exit code 2.
"""


class PixelfitError(Exception):
    """Base of every error that a user can mend."""


class OptionError(PixelfitError, ValueError):
    """An option or argument has a value that cannot be used."""


class DataError(PixelfitError, ValueError):
    """Pictures, tables or targets cannot be used as they are."""


class DownloadError(DataError):
    """A named data set could not be fetched from any of its mirrors."""


class ShardError(DataError):
    """A shard of pictures is gone, has changed, or cannot be reached; it may be there again at another time."""


class RunError(PixelfitError):
    """A run folder is missing, incomplete or in the way."""


class SearchError(PixelfitError):
    """No trial gave a usable model."""
