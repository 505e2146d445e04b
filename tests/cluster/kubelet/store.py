"""containerd's folder with the large images in it, made once, and copied by hard links when a node starts.

Unpacking the Airflow image takes half a minute, linking it a second. The store
holds what rarely changes, the layers below this project's own; its key is their
digests. containerd writes its databases, which are copied, and never a layer.
Called by ``node.py``.
"""

import fcntl
import hashlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from signal import SIGTERM

from tests.cluster.build import tell
from tests.cluster.kubelet import containerd, enclosure, images, layers, oci

#: One for the lock file in use, one for another branch's.
KEPT = 2


def furnish(place: enclosure.Enclosure, have: Sequence[oci.Image]) -> None:
    """Give an enclosure a containerd folder with these images, before its containerd starts."""
    store = prepare(have)
    target = containerd.folder(place)
    subprocess.run(["cp", "--archive", "--link", str(store), str(target)], check=True)
    for database in target.rglob("*.db"):
        database.unlink()
        shutil.copy2(store / database.relative_to(target), database)


def prepare(have: Sequence[oci.Image]) -> Path:
    """The store with these images, made if nobody has."""
    recipe = repr([(image.name, image.configuration()) for image in have])
    store = layers.cache() / f"store-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    with (layers.cache() / "store.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not store.exists():
            _make(store, have)
            _forget_old()
    # The latest in use is the last to be forgotten.
    store.touch()
    return store


def _make(store: Path, have: Sequence[oci.Image]) -> None:
    begin = time.monotonic()
    tell(f"unpacking {', '.join(image.name for image in have)} for the nodes to come …")
    with tempfile.TemporaryDirectory(prefix="store-") as logs, enclosure.opened(Path(logs)) as place:
        containerd.start(place, images.PAUSE)
        containerd.import_images(place, have)
        place.kill("containerd", SIGTERM)
        containerd.folder(place).rename(store)
    tell(f"unpacked in {time.monotonic() - begin:.1f} s")


def _forget_old() -> None:
    stores = sorted(layers.cache().glob("store-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for store in stores[KEPT:]:
        shutil.rmtree(store)
