"""The workers of a run or a sweep: a cluster of dask.distributed, on this machine or elsewhere."""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue

import dask
import pandas as pd
from distributed import Client, LocalCluster, as_completed
from distributed.system import MEMORY_LIMIT

from ..plan import ENVIRONMENT
from .notebooks import BookError

__all__ = ["connected", "rows_of", "workers_for"]

CONNECT = 20  # time limit for the answer of a scheduler, in seconds
MEMORY = 2e9  # bytes for a worker and the chapter that it runs


def workers_for(cores: int) -> int:
    """How many workers fit on this machine: one for each core, as far as the memory suffices."""
    return max(1, min(cores, int(MEMORY_LIMIT // MEMORY)))


@contextmanager
def connected(scheduler: str | None, workers: int) -> Iterator[Client]:
    """A client of the cluster at `scheduler`, or of a cluster on this machine that ends with the block.

    Raises:
        BookError: there is no scheduler at this address, or it has no worker within a minute; or dask cannot start
            workers on this machine.
    """
    if scheduler is None:
        try:
            # These variables replace dask's own, by which a worker returns freed memory to the system at once, and a
            # training requests it again at every step. The kernels of a worker inherit them.
            # With None for an address, dask still opens port 8787 to the network, and warns if it is taken.
            with dask.config.set({"distributed.nanny.pre-spawn-environ": ENVIRONMENT}):
                started = LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, memory_limit=None,
                                       dashboard_address="127.0.0.1:0", silence_logs=logging.ERROR)
        except RuntimeError as error:  # the user's configuration of dask may ask for anything
            raise BookError(f"dask cannot start {workers} workers on this machine: {error}") from None
        with started as cluster, Client(cluster) as client:
            yield client
        return
    with _client(scheduler) as client:
        try:
            client.wait_for_workers(1, timeout=3 * CONNECT)
        except TimeoutError as error:
            raise BookError(f"scheduler={scheduler!r} has no worker ({error})") from None
        yield client


def rows_of(function: Callable[..., list[dict]], cells: Sequence[tuple], scheduler: str | None) -> pd.DataFrame:
    """The rows of all cells, in their order, made by a function on a cluster; prints how many cells are done."""
    rows: dict[tuple, list[dict]] = {}
    with connected(scheduler, workers_for(os.cpu_count() or 1)) as client:
        futures = {client.submit(function, *cell, pure=False): cell for cell in cells}
        for future in as_completed(futures):
            rows[futures[future]] = future.result()
            print(f"{len(rows)} of {len(cells)} cells", flush=True)
    return pd.DataFrame([row for cell in cells for row in rows[cell]])


def _client(scheduler: str) -> Client:
    """A client of the scheduler, within `CONNECT` seconds.

    With a server that accepts the connection but has another protocol, `Client` never returns, whatever its timeout.
    So it is made in a thread that can be abandoned.
    """
    answer: SimpleQueue[Client | Exception] = SimpleQueue()

    def connect():
        try:
            answer.put(Client(scheduler, timeout=CONNECT))
        except Exception as error:  # the address or the server can be wrong in any way
            answer.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        client = answer.get(timeout=CONNECT)
    except Empty:
        client = TimeoutError(f"no answer of a dask scheduler within {CONNECT} s")
    if isinstance(client, Exception):
        raise BookError(f"scheduler must be the address of a dask scheduler, got {scheduler!r}: "
                        f"{' '.join(str(client).split())}")
    return client
