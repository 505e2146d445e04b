"""Stands for the demo below the guard: one stubborn service, until SIGTERM. Run by test_supervision alone."""

import signal
import sys
import threading
from pathlib import Path

from hybrid_executor.standalone.stack.supervisor import Service, Supervisor
from tests.integration.stack.test_supervision import stubborn

done = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: done.set())
supervisor = Supervisor([Service(name="stubborn", command=lambda: stubborn(Path(sys.argv[1])))])
supervisor.start(done.is_set)
while not done.wait(0.1):
    supervisor.tick()
supervisor.stop(3)
