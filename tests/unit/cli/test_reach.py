import pytest

from gatepass.cli.reach import issuer_server
from tests.unit.config.credential.test_kinds import CREDENTIAL, PLACES


@pytest.mark.parametrize(("block", "place"), PLACES)
def test_a_credential_whose_tokens_come_from_a_host_has_a_server(block, place):
    server = issuer_server("corp", CREDENTIAL.validate_python(block))
    assert (None if server is None else server.destination.host in place) == (None if " " in place else True)
