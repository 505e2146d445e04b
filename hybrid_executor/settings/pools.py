"""Reads the pools file. Never raises: without a readable one there are no pools, and its problems are told.

Called by ``settings.load``.
"""

from hybrid_executor.options import SECTION
from hybrid_executor.routing import Pool, parse_pools
from hybrid_executor.settings.reader import Reader


def load_pools(read: Reader, path: str | None) -> tuple[Pool, ...]:
    """The pools of the file, in its order; none where there is no file."""
    return read.file(SECTION, "pools_file", path, parse_pools)
