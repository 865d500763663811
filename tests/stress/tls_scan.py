"""What sslyze sees of the listener with `server.tls`, beside what is expected: `make tls-scan`.

gatepass serves with an ECDSA certificate and then with an RSA certificate, because the ciphers of TLS 1.2 and ROBOT
depend on it. The argument is the Python that has sslyze. Prints each line, and exits 1 if one differs.
"""

import asyncio
import json
import os
import sys
import tempfile
from asyncio.subprocess import DEVNULL
from pathlib import Path
from typing import Any

import trustme

from tests.integration.processes import serving

BOUND_S = 120.0
SUITES_1_2 = {"AES_128_GCM_SHA256", "AES_256_GCM_SHA384", "CHACHA20_POLY1305_SHA256"}
OLD = ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1")
COMMANDS = {
    *("sslv2", "sslv3", "tlsv1", "tlsv1_1", "tlsv1_2", "tlsv1_3", "reneg", "compression", "heartbleed", "openssl_ccs"),
    *("robot", "fallback", "early_data"),
}


def expected(key: str) -> dict[str, Any]:
    """Return sslyze's fields, with the names of ciphers sorted, for a certificate with this kind of key."""
    return {
        **{f"{version}_cipher_suites": [] for version in OLD},
        "tls_1_2_cipher_suites": sorted(f"TLS_ECDHE_{key}_WITH_{suite}" for suite in SUITES_1_2),
        "tls_1_3_cipher_suites": sorted(f"TLS_{suite}" for suite in SUITES_1_2),
        "session_renegotiation.supports_secure_renegotiation": True,
        "session_renegotiation.is_vulnerable_to_client_renegotiation_dos": False,
        "session_renegotiation.client_renegotiations_success_count": 0,
        "tls_compression.supports_compression": False,
        "tls_1_3_early_data.supports_early_data": False,
        "tls_fallback_scsv.supports_fallback_scsv": True,
        "heartbleed.is_vulnerable_to_heartbleed": False,
        "openssl_ccs_injection.is_vulnerable_to_ccs_injection": False,
        "robot.robot_result": "NOT_VULNERABLE_RSA_NOT_SUPPORTED",
    }


def seen(scan: dict[str, Any], name: str) -> Any:
    """Return what sslyze found for a line, or the status of a scan that did not complete."""
    command, _, field = name.partition(".")
    found = scan[command]
    if found["status"] != "COMPLETED":
        return found["status"]
    if field:
        return found["result"][field]
    return sorted(one["cipher_suite"]["name"] for one in found["result"]["accepted_cipher_suites"])


async def scan(sslyze_python: str, key_type: trustme.KeyType, folder: Path) -> dict[str, Any]:
    """Serve with a new certificate, and return the results of sslyze by its names of scans."""
    pair = trustme.CA(key_type=key_type).issue_cert("127.0.0.1", "localhost", key_type=key_type)
    files = {name: folder / f"{name}.pem" for name in ("cert_file", "key_file")}
    pair.cert_chain_pems[0].write_to_path(files["cert_file"])
    pair.private_key_pem.write_to_path(files["key_file"])
    files["key_file"].chmod(0o600)
    tls = {name: str(file) for name, file in files.items()}
    config, report = folder / "gatepass.json", folder / "report.json"
    server = {"port": 0, "control_socket": "off", "tls": tls}
    config.write_text(json.dumps({"server": server, "upstreams": {"chat": {"base_url": "http://127.0.0.1:9/v1"}}}))
    async with serving("--config", str(config)) as served:
        (listening, *_) = await served.logged(r'"event":"listening","url":"https://(127\.0\.0\.1:\d+)')
        options = [*(f"--{command}" for command in sorted(COMMANDS)), "--mozilla_config", "disable"]
        process = await asyncio.create_subprocess_exec(
            *(sslyze_python, "-m", "sslyze", "--json_out", str(report), *options, listening[1]), stdout=DEVNULL
        )
        try:
            await asyncio.wait_for(process.wait(), BOUND_S)
        finally:
            if process.returncode is None:
                process.kill()
    (result,) = json.loads(report.read_text())["server_scan_results"]
    found: dict[str, Any] = result["scan_result"]
    if found is None:
        raise SystemExit(f"sslyze could not connect: {result['connectivity_error_trace']}")
    return found


def differences(found: dict[str, Any], key: str) -> int:
    """Print each line, and return how many differ."""
    differing = 0
    for name, wanted in expected(key).items():
        is_as_expected = seen(found, name) == wanted
        differing += not is_as_expected
        more = "" if is_as_expected else f", expected {wanted}"
        print(f"{'ok' if is_as_expected else 'DIFFERS':8}{name}: {seen(found, name)}{more}")
    return differing


def main() -> int:
    os.umask(0o077)
    differing = 0
    for key, key_type in (("ECDSA", trustme.KeyType.ECDSA), ("RSA", trustme.KeyType.RSA)):
        print(f"certificate with a key of {key}")
        with tempfile.TemporaryDirectory() as folder:
            differing += differences(asyncio.run(scan(sys.argv[1], key_type, Path(folder))), key)
    print(f"{differing} of {2 * len(expected(''))} lines differ")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
