"""A worker that has read its configuration when `gatepass reload` or SIGHUP comes: `python late_worker.py FOLDER BY`.

FOLDER contains `gatepass.json` and `changed.json`, which becomes `gatepass.json`. Prints the worker's port first.
"""

import os
import signal
import socket
import sys
from pathlib import Path

from gatepass.cli.serve import ServeFlags, work
from gatepass.config.load import LoadedConfig
from gatepass.server.listening import bind
from gatepass.server.supervisor import WorkerOptions


class ReplacedFlags(ServeFlags):
    def load_or_exit(self, *, logs: bool) -> LoadedConfig:
        loaded = super().load_or_exit(logs=logs)
        file = Path(self.path or "")
        if sys.argv[2] == "command":
            (file.parent / "reload").touch()
        else:
            os.kill(os.getpid(), signal.SIGHUP)
        file.with_name("changed.json").replace(file)
        return loaded


signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # as `gatepass serve` does
folder = Path(sys.argv[1])
listening, (lifeline, other) = bind("127.0.0.1", 0), socket.socketpair()
listening.listen()
print(listening.getsockname()[1], flush=True)
options = WorkerOptions(1, 0, "json", str(folder), listening.detach(), lifeline.detach(), control=None)
work(options, ReplacedFlags(str(folder / "gatepass.json"), None, None, None, {}))
