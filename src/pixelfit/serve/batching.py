"""One thread that predicts for all that waits at once: nobody waits for others, and under load batches grow by themselves."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pixelfit.types import Array

MOST_AT_ONCE = 64  # pictures: of a net for digits a batch of 64 took as long for each as one of 256


@dataclass(frozen=True)
class _Waiting:
    pictures: Array
    answer: asyncio.Future[Mapping[str, Array]]


class Batcher:
    """Runs pictures of one size through ``run``, in batches of at most ``MOST_AT_ONCE`` or as many as one request brings."""

    def __init__(self, run: Callable[[Array], Mapping[str, Array]], observe: Callable[[int], None]) -> None:
        """``observe`` is told the size of each batch."""
        self._run, self._observe = run, observe
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="pixelfit-batches", daemon=True)
        self._thread.start()

    async def outputs(self, pictures: Array) -> Mapping[str, Array]:
        """The outputs for pictures (n, height, width, channels)."""
        answer: asyncio.Future[Mapping[str, Array]] = self._loop.create_future()
        self._waiting.put(_Waiting(pictures, answer))
        return await answer

    def close(self) -> None:
        """Finish what waits, and end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        held: _Waiting | None = None
        while True:
            first = held or self._waiting.get()
            held = None
            if first is None:
                return
            batch, count = [first], len(first.pictures)
            while count < MOST_AT_ONCE:
                try:
                    following = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    self._waiting.put(None)  # to be found again once this batch is done
                    break
                if count + len(following.pictures) > MOST_AT_ONCE:
                    held = following
                    break
                batch.append(following)
                count += len(following.pictures)
            wanted = [waiting for waiting in batch if not waiting.answer.cancelled()]
            if wanted:
                self._predict(wanted)

    def _predict(self, batch: Sequence[_Waiting]) -> None:
        sizes = [len(waiting.pictures) for waiting in batch]
        self._observe(sum(sizes))
        try:
            outputs = self._run(np.concatenate([waiting.pictures for waiting in batch]) if len(batch) > 1 else batch[0].pictures)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            self._loop.call_soon_threadsafe(_fail, batch, error)
            return
        self._loop.call_soon_threadsafe(_answer, batch, outputs)


def _answer(batch: Sequence[_Waiting], outputs: Mapping[str, Array]) -> None:
    start = 0
    for waiting in batch:
        end = start + len(waiting.pictures)
        if not waiting.answer.done():
            waiting.answer.set_result({name: values[start:end] for name, values in outputs.items()})
        start = end


def _fail(batch: Sequence[_Waiting], error: Exception) -> None:
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_exception(error)
