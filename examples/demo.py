"""Run the programs of this folder, with a real `gatepass serve` between them: `make demo`.

    python examples/demo.py --once

gatepass.yaml is the configuration. Each server gets a free port instead of the one in the file.
"""

import argparse
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

HERE = Path(__file__).parent
CONFIGURATION = (HERE / "gatepass.yaml").read_text()
KEY = "key-of-the-client"
SECRETS = {"CHAT_SECRET": "secret-of-demo-chat", "EMBED_SECRET": "secret-of-demo-embed"}
LIFETIME_S = 15
OTHER_STEPS_S = 10
"""The time of the demo but for the wait for the end of a token."""

INTRODUCTION = """
   gatepass         http://127.0.0.1:{0}   the client has one URL and one key
   issuer           http://127.0.0.1:{1}   tokens live {lifetime_s:.0f} s
   company gateway  http://127.0.0.1:{2}   rejects expired tokens and unknown parameters
   embeddings       http://127.0.0.1:{3}   another host, another login
   MCP server       http://127.0.0.1:{4}   wants a token too"""
INVITATION = """
Still up. Try it from another terminal, and again in a minute; Ctrl-C ends it:

curl -N {}/chat/completions -H "Authorization: Bearer {}" -H "Content-Type: application/json" \\
  -d '{{"model": "demo-chat", "stream": true, "messages": [{{"role": "user", "content": "Hi"}}]}}'
"""


def environment(**more: str) -> dict[str, str]:
    """Return the variables of a program: without those of your own gatepass, and with no proxy for this machine."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("GATEPASS_")}
    return {**own, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", **more}


def reserved() -> socket.socket:
    """Return a socket on a port that the system gives to no other program: it chooses from 32,768 on."""
    while True:
        with suppress(OSError):
            return socket.create_server(("127.0.0.1", 20_000 + secrets.randbelow(10_000)))


@contextmanager
def servers(*wanted: int, lifetime_s: float = 300) -> Iterator[dict[int, int]]:
    """Run the servers that have these ports in gatepass.yaml, and yield the real port of each. 8080 is gatepass."""
    with ExitStack() as held:
        free = [held.enter_context(reserved()) for _ in wanted]
        ports = {port: found.getsockname()[1] for port, found in zip(wanted, free, strict=True)}
    with ExitStack() as running:
        file = Path(running.enter_context(tempfile.TemporaryDirectory())) / "gatepass.yaml"
        file.write_text(re.sub(r"\b900\d\b", lambda port: str(ports.get(int(port[0]), port[0])), CONFIGURATION))
        commands = {
            8080: ["-m", "gatepass", "serve", f"--config={file}"],
            9001: [f"{HERE}/issuer.py", f"--lifetime={lifetime_s}"],
            9002: [f"{HERE}/company_gateway.py"],
            9003: [f"{HERE}/company_gateway.py", "--model=demo-embed"],
            9004: [f"{HERE}/mcp_server.py"],
        }
        started = []
        for number, port in ports.items():
            command = [sys.executable, *commands[number], f"--port={port}"]
            # a group of its own, because Ctrl-C is for this program, which then stops the servers
            server = subprocess.Popen(command, env=environment(**SECRETS), process_group=0)
            running.callback(server.wait)  # `with server` waits a quarter of a second only after a Ctrl-C
            running.callback(server.terminate)
            started.append(server)
        for server, port in zip(started, ports.values(), strict=True):
            wait_for(server, port)
        yield ports


def wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    """Wait until the server accepts connections."""
    while server.poll() is None:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise SystemExit(f"{server.args!r} ended with {server.returncode}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--once", action="store_true", help="end after the last step; exit code 0 if all succeeded")
    parser.add_argument("--lifetime", type=float, default=LIFETIME_S, help="seconds that a token lives")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # so that every end stops the servers
    code = 1
    print(f"The demo takes {options.lifetime + OTHER_STEPS_S:.0f} seconds.", flush=True)
    with suppress(KeyboardInterrupt), servers(8080, 9001, 9002, 9003, 9004, lifetime_s=options.lifetime) as ports:
        print(INTRODUCTION.format(*ports.values(), lifetime_s=options.lifetime), flush=True)
        url = f"http://127.0.0.1:{ports[8080]}/v1"
        client = [sys.executable, f"{HERE}/client.py", f"--seconds={options.lifetime + 1}"]
        variables = environment(OPENAI_BASE_URL=url, OPENAI_API_KEY=KEY)
        code = subprocess.run(client, env=variables, check=False).returncode
        if code == 0 and not options.once:
            print(INVITATION.format(url, KEY), flush=True)
            signal.pause()
    print("\nThe demo has stopped its servers.", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
