"""What takes long to start, started once for tests that follow one another: a browser, a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from browsing import chrome

OBJECTS = 100_000_000  # bytes of a node's object store


class Shared:
    """Begins when a test first wants it, and ends before the first test without its mark, which it could disturb.

    Playwright's event loop occupies its thread, and some tests count this process's children.
    """

    def __init__(self, begin: Callable[..., AbstractContextManager[Any]]) -> None:
        self._begin = begin
        self._begun = ExitStack()
        self._it: Any = None

    def get(self, *words: str) -> Any:
        """It, begun with these words if it was not."""
        if self._it is None:
            self._it = self._begun.enter_context(self._begin(*words))
        return self._it

    def end(self) -> None:
        """End it; doing so twice changes nothing."""
        self._it = None
        self._begun.close()


@contextmanager
def ray_cluster() -> Iterator[Any]:
    """A Ray cluster of three nodes: one for the search, two with a core each for trials."""
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patched.setenv("RAY_worker_niceness", "0")  # 15 by default, with which a busy core leaves them next to nothing
        head = {"num_cpus": 0, "object_store_memory": OBJECTS, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(2):
                cluster.add_node(num_cpus=1, object_store_memory=OBJECTS)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


# By the mark of the tests that want it.
SHARED = {"browser": Shared(chrome), "ray": Shared(ray_cluster)}
