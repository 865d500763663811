"""Who configures no vendor's credential loads no vendor's library."""

import json
import subprocess
import sys

import pytest

LIBRARIES = ("azure", "msal", "google", "botocore", "urllib3", "requests", "gatepass.tokens.vendor")
PROBE = """
import json, sys
from gatepass.call import Secret
from gatepass.config.credential.static import StaticCredential
from gatepass.runtime import SystemClock
from gatepass.tokens.source import build_source

build_source("key", StaticCredential(type="static", token=Secret("abcdefgh")), None, SystemClock())
print(json.dumps(sorted(sys.modules)))
"""


@pytest.fixture(scope="module")
def loaded() -> list[str]:
    ran = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, check=True, text=True, timeout=60)
    names: list[str] = json.loads(ran.stdout)
    return names


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_switch_over_all_kinds_loads_no_vendors_library(loaded, library):
    assert "gatepass.tokens.source" in loaded
    assert [name for name in loaded if name.partition(".")[0] == library or name == library] == []
