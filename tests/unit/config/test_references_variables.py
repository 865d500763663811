from gatepass.config.environment import VariableValue, variable_value
from gatepass.config.references import Reference, own_variables


def test_own_variables_lose_their_prefix_and_the_empty_ones():
    environment = {"GATEPASS_HOST": "h", "GATEPASS_PROXY": "", "HOST": "x", "gatepass_port": "1"}
    assert own_variables(environment) == {"HOST": "h"}


def test_variables_that_kubernetes_sets_for_a_service_named_gatepass_are_ignored():
    environment = {
        "GATEPASS_PORT": "tcp://10.0.0.1:8080",
        "GATEPASS_SERVICE_HOST": "10.0.0.1",
        "GATEPASS_SERVICE_PORT": "8080",
        "GATEPASS_SERVICE_PORT_HTTP": "8080",
        "GATEPASS_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "GATEPASS_PORT_8080_TCP_ADDR": "10.0.0.1",
        "GATEPASS_NAME": "/app/gatepass",
        "GATEPASS_ENV_PATH": "/bin",
    }
    assert own_variables(environment) == {}
    assert own_variables({"GATEPASS_PORT": "8080", "GATEPASS_PORTS": "x"}) == {"PORT": "8080", "PORTS": "x"}


def test_a_secret_is_given_as_a_reference():
    found = variable_value({"TOKEN": "abc"}, "TOKEN")
    assert found is not None
    assert repr(found) == "VariableValue(name='TOKEN', value=Reference(${GATEPASS_TOKEN}), file=None, fault=None)"


def test_a_secret_may_stand_in_a_file(tmp_path):
    file = tmp_path / "token"
    file.write_text("abc\n")
    found = variable_value({"TOKEN_FILE": str(file)}, "TOKEN")
    assert found == VariableValue("TOKEN_FILE", "abc", str(file))
    assert isinstance(found.value, Reference)
    file.unlink()
    assert variable_value({"TOKEN_FILE": str(file)}, "TOKEN") == VariableValue(
        "TOKEN_FILE", "", str(file), f"the file {file} cannot be read: No such file or directory"
    )
