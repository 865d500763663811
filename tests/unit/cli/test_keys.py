import re

import pytest
from click.testing import CliRunner

from gatepass.auth.api_keys import hash_key
from gatepass.cli.keys import keys
from gatepass.config.load import load


def test_a_new_key_is_printed_once_with_its_hash_and_lines_to_paste(tmp_path):
    result = CliRunner().invoke(keys, ["new", "--name", "rag-flow.1"])
    assert result.exit_code == 0
    (key,) = re.findall(r"gp-\S+", result.output)
    (line,) = re.findall(r"^ {2}- .*$", result.output, re.MULTILINE)
    assert f"GATEPASS_KEY_HASHES={hash_key(key)}\n" in result.output
    file = tmp_path / "f.yaml"
    file.write_text(f"upstreams: {{u: {{base_url: 'https://x'}}}}\naccess:\n  keys:\n  {line}\n")
    (entry,) = load(str(file), {}).config.access.keys
    assert (entry.name, entry.hash) == ("rag-flow.1", hash_key(key))


@pytest.mark.parametrize("name", ["", "a b", "a\nb", 'a"', "-a"])
def test_a_name_that_the_file_would_refuse_is_refused(name):
    result = CliRunner().invoke(keys, ["new", f"--name={name}"])
    assert result.exit_code == 2
    assert "gp-" not in result.output
