"""Every module of the rig can be imported, and gatepass accepts the rig's configuration: a rename in src shows here."""

from importlib import import_module
from pathlib import Path

import pytest
import trustme
from bench.candidates import CLIENT_SECRET, CONFIG
from bench.paths import BENCH, ROOT
from bench.profile import STAGES
from bench.workloads import WORKLOADS, _bodies

from gatepass.config.load import load

MODULES = sorted(path.stem for path in BENCH.glob("*.py") if path.stem not in ("__init__", "__main__"))
VARIABLES = {
    "BENCH_UPSTREAM_URL": "http://127.0.0.1:9/v1",
    "BENCH_TOKEN_URL": "http://127.0.0.1:9/token",
    "BENCH_CLIENT_SECRET": CLIENT_SECRET,
    "BENCH_KEY_HASH": f"sha256:{'0' * 64}",
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_can_be_imported(name: str) -> None:
    import_module(f"bench.{name}")


@pytest.mark.parametrize("part", [part for part, _ in STAGES if part.startswith("gatepass/")])
def test_a_stage_of_the_profile_names_code_that_is_there(part: str) -> None:
    assert (ROOT / "src" / part).exists()


def test_gatepass_accepts_the_configuration_and_renames_every_model_of_a_workload(tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca_file))
    config = load(str(CONFIG), {**VARIABLES, "BENCH_CA_FILE": str(ca_file)}).config
    bodies = {name: body["model"] for name, body in _bodies().items()}
    assert {bodies[workload.body] for workload in WORKLOADS} <= set(config.models)
