"""Writing replies as they come, together where several come at once: one sync to disk for all that wait for it."""

from __future__ import annotations

import asyncio

from fedllm_bench.evaluation.judges.store import Entry, ReplyStore


class Keeper:
    """For the tasks of one event loop."""

    def __init__(self, store: ReplyStore) -> None:
        self._store = store
        self._waiting: list[tuple[Entry, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def put(self, entry: Entry) -> None:
        """Returns when the reply is on disk. Raises the OSError of a disk that takes no more."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        await asyncio.shield(done)

    async def flush(self) -> None:
        if self._writer is not None:
            await self._writer

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            error: OSError | None = None
            try:
                await asyncio.to_thread(self._store.append, [entry for entry, _ in batch])
            except OSError as caught:
                error = caught
            for _, done in batch:
                _settle(done, error)


def _settle(done: asyncio.Future[None], error: OSError | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
