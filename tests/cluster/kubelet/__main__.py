"""Make ready what a node needs: programs, images, the large ones unpacked. Quick when nothing has changed.

    python -m tests.cluster.kubelet

Says what it does, the time and the sizes. Where no node can run it says why, and
that is no error: the tests then list what they did not run.
"""

import sys
import time

from tests.cluster import build
from tests.cluster.build import tell
from tests.cluster.kubelet import images, layers, packages, store


def prepare() -> None:
    """Build what is not in the cache. For machines on which a node can run."""
    build.kubernetes()
    for image in images.build_all():
        tell(f"image {image.name}: {image.size / 1e6:.0f} MB in {len(image.layers)} layers")
    store.prepare(images.python_images())


def main() -> int:
    """Install, then build."""
    packages.main()
    if packages.obstacles():
        return 0
    begin = time.monotonic()
    prepare()
    tell(f"images are ready after {time.monotonic() - begin:.1f} s, in {layers.cache()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
