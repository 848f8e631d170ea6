"""How a training is passed from one of pixelfit's processes to another: the store of pictures is mapped, and never copied."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np

from pixelfit.types import Array


@dataclass(frozen=True)
class StoreAt:
    """The file in which the store of pictures lies, to be mapped; ``name`` may be that of a descriptor in ``/dev/fd``."""

    name: str
    offset: int
    dtype: str
    shape: tuple[int, ...]

    @staticmethod
    def of(store: Array) -> StoreAt | None:
        """Where a store lies that is mapped from a file; None for one in memory."""
        if isinstance(store, np.memmap) and isinstance(store.filename, (str, os.PathLike)) and store.flags["C_CONTIGUOUS"]:
            return StoreAt(os.fspath(store.filename), int(store.offset), store.dtype.str, store.shape)
        return None

    @staticmethod
    def copied(store: Array, memory: int) -> StoreAt:
        """The store written into the shared memory of this descriptor, which those who map it must have been given."""
        with os.fdopen(os.dup(memory), "wb") as out:
            out.write(np.ascontiguousarray(store).data)
        return StoreAt(f"/dev/fd/{memory}", 0, store.dtype.str, store.shape)

    def mapped(self) -> Array:
        """The store, mapped: all processes of a machine share its pages."""
        return np.memmap(self.name, self.dtype, "r", self.offset, self.shape)


def packed(thing: object, store: Array) -> bytes:
    """The thing pickled, with a mark in place of the store: both ends are this program."""
    out = BytesIO()

    class Packer(pickle.Pickler):
        def persistent_id(self, part: Any) -> str | None:
            return "store" if part is store else None

    Packer(out, protocol=pickle.HIGHEST_PROTOCOL).dump(thing)
    return out.getvalue()


def unpacked(content: bytes, store: Array) -> Any:
    """What was packed, with this store."""

    class Unpacker(pickle.Unpickler):
        def persistent_load(self, name: str) -> Array:
            return store

    return Unpacker(BytesIO(content)).load()
