import errno
import socket
import ssl

import pytest

from gatepass.errors import system_reason


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 9)"), "connection refused"),
        (OSError("Multiple exceptions: [Errno 111] Connect ('::1', 9), [Errno 111] Connect"), "connection refused"),
        (OSError("Multiple exceptions: [Errno 111] x, [Errno 101] y"), "connection refused, network is unreachable"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "name or service not known"),
        (TimeoutError("timed out"), "no answer in time"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"), "no such file or directory"),
        (OSError("a text of its own"), "a text of its own"),
    ],
)
def test_a_reason_has_no_number_no_class_and_no_address(error, reason):
    assert system_reason(error) == reason


def test_tls_error_is_not_a_system_error():
    error = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)")
    error.reason = "WRONG_VERSION_NUMBER"
    assert system_reason(error) == "wrong version number"
    refused = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED]")
    refused.verify_message = "certificate has expired"
    assert system_reason(refused) == "certificate has expired"
