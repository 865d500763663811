"""`gatepass serve --workers N`: one listening socket, N processes that accept on it, and this one, which keeps them.

It imports no web framework and serves nothing. SIGTERM and SIGINT drain the workers; SIGHUP replaces
them one by one by new ones, which read the configuration anew; uvicorn's own supervisor would stop
and start them instead. A worker that is replaced is told by SIGTERM and leaves the socket to the others;
that all of them stop is told by the lifeline, and then each answers 503 while it drains.
"""

from gatepass.supervisor.channel import CONNECTIONS, STORE
from gatepass.supervisor.folder import NoFolder
from gatepass.supervisor.slots import Supervisor
from gatepass.supervisor.worker import name_of

__all__ = ["CONNECTIONS", "STORE", "NoFolder", "Supervisor", "name_of"]
