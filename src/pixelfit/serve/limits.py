"""What a server takes on, and how it refuses the rest."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus


@dataclass(frozen=True)
class Limits:
    """The most that one request, and all of them together, may ask for."""

    max_bytes: int = 10 << 20  # of one file
    max_pixels: int = 50_000_000  # of one picture, once decoded
    max_files: int = 32  # in one request
    max_requests: int = 256  # under way at once
    max_seconds: float = 30.0  # from a request's head to its answer

    @property
    def max_body(self) -> int:
        """Bytes of a whole request: many files may come together, but not as many of the largest kind."""
        return 4 * self.max_bytes

    @property
    def max_held(self) -> int:
        """Bytes of all requests that are under way."""
        return 16 * self.max_bytes


class RefusedError(Exception):
    """A request that is answered with a sentence and a status other than 200."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class Room:
    """Counts the bytes of the requests that are under way, so that many large ones together do not fill the memory."""

    def __init__(self, most: int) -> None:
        self._most, self._used = most, 0

    def share(self) -> Share:
        """One request's part of it."""
        return Share(self)

    def move(self, size: int) -> None:
        """Take so many bytes more, or with a negative size give them back; raises RefusedError if there is no room."""
        self._used += size
        if size > 0 and self._used > self._most:
            raise RefusedError(
                HTTPStatus.TOO_MANY_REQUESTS, "The server holds as many bytes of requests as it takes; try again later."
            )


class Share:
    """The bytes that one request takes up."""

    def __init__(self, room: Room) -> None:
        self._room, self._taken = room, 0

    def take(self, size: int) -> None:
        """So many more have come."""
        self._taken += size
        self._room.move(size)

    def give_back(self) -> None:
        """The request has been answered."""
        self._room.move(-self._taken)
        self._taken = 0
