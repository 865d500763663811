"""The Helm chart, rendered by Helm itself: its objects, the configuration in them, and what it refuses.

`make chart-check` runs this file in an environment of its own. GATEPASS is the program that checks each gatepass.yaml.
VALUES names files of values of your own, in the order of `helm -f`: their objects and gatepass.yaml are checked too.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helm_python import Chart, HelmRenderError, HelmValuesError, lint, values_from_yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/chart"
MANIFESTS = ROOT / "deploy/kubernetes.yaml"
EXAMPLES = {file.stem: file for file in sorted(CHART.glob("examples/*.yaml"))}
OWN = [ROOT / name for name in os.environ.get("VALUES", "").split()]
KUBERNETES = ("1.30", "1.34", "1.37")
"""The oldest version that Chart.yaml accepts, one between, and the newest that kubernetes-validate knows."""
CUSTOM = {"HTTPRoute", "ServiceMonitor"}
MIB = 1024 * 1024
HEAD = "# Made by `make chart` of deploy/chart and its default values: docs/kubernetes.md#without-helm.\n"


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of two files, as Helm does: an object member by member, all else whole."""
    both = {
        name: merged(below[name], above[name])
        for name in below.keys() & above.keys()
        if all(isinstance(side[name], dict) for side in (below, above))
    }
    return {**below, **above, **both}


@cache
def example(name: str) -> dict[str, Any]:
    """The values of an example on top of those of oauth2.yaml, but for the one without `config`."""
    files = [EXAMPLES["oauth2"], EXAMPLES[name]] if name != "existing_configmap" else [EXAMPLES[name]]
    return together(files)


def together(files: Sequence[Path]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for file in files:
        values = merged(values, values_from_yaml(file.read_text()))
    return values


def texts_of(values: Mapping[str, Any]) -> dict[str, str]:
    with Chart.load(CHART) as chart:
        return {
            path.rpartition("/")[2]: text
            for path, text in chart.render(dict(values), name="gatepass", namespace="llm").items()
        }


def rendered(values: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the objects by kind and name."""
    texts = [text for name, text in texts_of(values).items() if name.endswith(".yaml")]
    objects = [found for text in texts for found in yaml.safe_load_all(text) if found]
    return {(found["kind"], found["metadata"]["name"]): found for found in objects}


if OWN:  # one line for a typo in the files of VALUES, and not a traceback of each test
    try:
        rendered(together(OWN))
    except (HelmRenderError, HelmValuesError, OSError, ValueError, yaml.YAMLError) as error:
        pytest.exit(f"VALUES={os.environ['VALUES']}: {error}", returncode=2)


def pod(values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = rendered(values)["Deployment", "gatepass"]["spec"]["template"]["spec"]
    return found


def environment(values: Mapping[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in pod(values)["containers"][0]["env"]}


def everything() -> dict[str, Any]:
    """All examples at once."""
    values: dict[str, Any] = {}
    for name in EXAMPLES:
        values = merged(values, example(name))
    return values


# the objects


@pytest.mark.parametrize("version", KUBERNETES)
def test_each_object_is_valid(version: str) -> None:
    found = [*rendered({}).values(), *rendered(together(OWN)).values()]
    found += [one for name in EXAMPLES for one in rendered(example(name)).values()]
    for text in sorted({json.dumps(one) for one in found if one["kind"] not in CUSTOM}):
        kubernetes_validate.validate(json.loads(text), version, strict=True)


@pytest.mark.parametrize("version", KUBERNETES)
def test_helm_lints_the_chart(version: str) -> None:
    report = lint(CHART, everything(), strict=True, kube_version=f"v{version}.0")
    assert [found for found in report["messages"] if found["severity"] > 1] == []


@pytest.mark.skipif(shutil.which("node") is None, reason="requires Node")
def test_custom_resources_follow_their_schemas() -> None:
    custom = [found for found in rendered(everything()).values() if found["kind"] in CUSTOM]
    assert {found["kind"] for found in custom} == CUSTOM
    program = ROOT / ".chart/custom_resources.mjs"  # Node searches for the packages from the folder of the program
    program.write_text((Path(__file__).parent / "custom_resources.mjs").read_text())
    subprocess.run(["node", program], input=json.dumps(custom), text=True, check=True, timeout=60)


def test_manifests_are_those_of_the_default_values() -> None:
    texts = [text.strip() for name, text in sorted(texts_of({}).items()) if name.endswith(".yaml") and text.strip()]
    written = HEAD + "".join(f"---\n{text}\n" for text in texts)
    if os.environ.get("CHART") == "write":
        MANIFESTS.write_text(written)
    assert MANIFESTS.read_text() == written, "run `make chart`"


def test_only_what_is_switched_on_exists() -> None:
    kinds = {kind for kind, _ in rendered({})}
    assert kinds == {"Deployment", "PodDisruptionBudget", "Service", "ServiceAccount"}
    optional = {"HTTPRoute", "Ingress", "HorizontalPodAutoscaler", "NetworkPolicy", "ServiceMonitor", "StatefulSet"}
    optional |= {"ConfigMap"}
    assert {kind for kind, _ in rendered(everything())} == kinds | optional


def test_a_pod_is_restricted() -> None:
    """The Pod Security Standard `restricted` of Kubernetes: each field that it requires."""
    values = example("valkey")
    pods = [
        found["spec"]["template"]["spec"] for found in rendered(values).values() if "template" in found.get("spec", {})
    ]
    assert len(pods) == 2
    for found in pods:
        assert found["securityContext"]["runAsNonRoot"] is True
        assert found["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {kind for volume in found["volumes"] for kind in volume.keys() - {"name"}} <= {
            *("configMap", "secret", "projected", "emptyDir", "persistentVolumeClaim")
        }
        for container in found["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert not any("hostPort" in port for port in container["ports"])
    restricted = example("restricted")
    assert pod(restricted) == pod(example("oauth2"))


def test_openshift_assigns_the_user() -> None:
    assert pod(example("openshift"))["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


# the configuration


def files_of(
    spec: Mapping[str, Any], objects: Mapping[tuple[str, str], Mapping[str, Any]], config: str
) -> Iterator[tuple[str, str]]:
    """Yield the path and text of each file that the pod's volumes have, with a text for those of other owners."""
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    for mount in spec["containers"][0]["volumeMounts"]:
        volume, folder = volumes[mount["name"]], mount["mountPath"]
        own = objects.get(("ConfigMap", volume.get("configMap", {}).get("name", "")))
        if own is not None:
            yield from ((f"{folder}/{name}", text) for name, text in own["data"].items())
        elif mount["name"] == "ca":
            yield from ((f"{folder}/{item['path']}", certificate()[1]) for item in volume["configMap"]["items"])
        elif mount["name"] == "tls":
            key, pem = certificate()
            yield from (
                (f"{folder}/{name}", text) for name, text in (("tls.key", key), ("tls.crt", pem), ("ca.crt", pem))
            )
        else:
            paths = re.findall(r"(?:\$\{file:|: )(/[^}\s]+)", config)
            yield from ((path, "a" * 64) for path in paths if path.rpartition("/")[0] == folder)


@cache
def certificate() -> tuple[str, str]:
    """Return a private key and its certificate."""
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout /dev/stdout -subj /CN=corp -days 1"
    printed = subprocess.run(command.split(), capture_output=True, text=True, check=True, timeout=60).stdout
    begin = printed.index("-----BEGIN CERTIFICATE")
    return printed[:begin], printed[begin:]


@pytest.mark.parametrize("name", [*sorted(EXAMPLES.keys() - {"existing_configmap"}), *(["VALUES"] if OWN else [])])
def test_gatepass_accepts_the_configuration_with_the_files_of_the_pod(name: str, tmp_path: Path) -> None:
    values = together(OWN) if name == "VALUES" else example(name)
    objects = rendered(values)
    spec = pod(values)
    config = objects["ConfigMap", "gatepass"]["data"]["gatepass.yaml"]

    def inside(text: str) -> str:
        return re.sub(r"(?<![\w/])/(?=run/secrets/|etc/)", f"{tmp_path}/", text)

    for path, text in files_of(spec, objects, config):
        file = Path(inside(path))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(inside(text) if path.endswith("gatepass.yaml") else text)
        file.chmod(0o600)
    variables = {entry: inside(value) for entry, value in environment(values).items()}
    checked = subprocess.run(
        [os.environ["GATEPASS"], "check"], env=variables, capture_output=True, text=True, check=False, timeout=120
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr

    assert "warning" not in checked.stdout + checked.stderr


def test_large_numbers_and_references_stay_what_they_are() -> None:
    config = {"limits": {"held_bytes": 134217728, "reply_bytes": 5368709120}, **example("oauth2")["config"]}
    values = {"config": config, "resources": {"limits": {"memory": "8Gi"}}}
    text = rendered(values)["ConfigMap", "gatepass"]["data"]["gatepass.yaml"]
    assert "held_bytes: 134217728\n" in text
    assert "reply_bytes: 5368709120\n" in text
    assert "client_secret: ${file:/run/secrets/gatepass/client_secret}\n" in text


def test_a_changed_configuration_restarts_the_pods_unless_gatepass_watches_it() -> None:
    def annotations(values: dict[str, Any]) -> Any:
        template = rendered(values)["Deployment", "gatepass"]["spec"]["template"]
        return template["metadata"].get("annotations")

    other = merged(example("oauth2"), {"config": {"log": {"level": "debug"}}})
    assert annotations(example("oauth2")) != annotations(other)
    assert annotations(example("watch")) is None


# memory, drain, warnings, what is refused


@pytest.mark.parametrize(
    ("memory", "limits", "connections"),
    [
        ("512Mi", {}, 400),
        ("4Gi", {"connections": 100}, 100),
        ("1000M", {}, 745),
        ("256Mi", {"held_bytes": 64 * MIB, "body_bytes": 8 * MIB, "reply_bytes": 16 * MIB}, 200),
    ],
)
def test_the_limits_fit_the_memory(memory: str, limits: dict[str, int], connections: int) -> None:
    """The sum of docs/operations/limits_and_memory.md#memory, with a small request on each connection."""
    config = merged(example("oauth2")["config"], {"limits": limits})
    values = {"config": config, "resources": {"limits": {"memory": memory}}}
    assert environment(values)["GATEPASS_LIMITS_CONNECTIONS"] == str(connections)
    number, unit = re.findall(r"(\d+)(\w+)", memory)[0]
    share = int(number) * {"Mi": MIB, "Gi": 1024 * MIB, "M": 1_000_000}[unit]
    sum_of_page = 80 * MIB + limits.get("held_bytes", share / 2) * 9 / 8
    sum_of_page += limits.get("body_bytes", 32 * MIB) + limits.get("reply_bytes", 64 * MIB)
    assert sum_of_page + connections * (5 / 4 * 30 + 64) * 1024 <= share


def test_limits_that_do_not_fit_are_refused() -> None:
    with pytest.raises(HelmRenderError, match=r"gatepass 256 MiB, and its limits need 340 MiB\. Raise it, or"):
        rendered({"resources": {"limits": {"memory": "256Mi"}}})


@pytest.mark.parametrize("config", [{}, example("oauth2")["config"]])
def test_a_pod_is_killed_5_s_after_its_drain(config: dict[str, Any]) -> None:
    """It leaves the Service while gatepass waits. If the chart does not know the file, it sleeps before."""
    values = {"config": config, "drain": {"delaySeconds": 10, "timeoutSeconds": 60}}
    spec = pod(values)
    assert spec["terminationGracePeriodSeconds"] == (75 if config else 85)
    if config:
        traced = merged(values, {"config": {"tracing": {}}})
        assert pod(traced)["terminationGracePeriodSeconds"] == 79, "the last spans take up to 3 s"
    sleep = spec["containers"][0].get("lifecycle")
    if config:
        server = yaml.safe_load(rendered(values)["ConfigMap", "gatepass"]["data"]["gatepass.yaml"])["server"]
        assert (sleep, server["drain_delay_s"], server["drain_timeout_s"]) == (None, 10, 60)
        longer = merged(values, {"config": {"server": {"drain_timeout_s": 290.5}}})
        assert pod(longer)["terminationGracePeriodSeconds"] == 306
    else:
        assert sleep == {"preStop": {"sleep": {"seconds": 10}}}


def test_the_notes_name_the_settings_that_require_a_restart() -> None:
    rows = (ROOT / "docs/operations/reload.md").read_text()
    (names,) = re.findall(r"^\| (.*) \| keep their values until a restart \|$", rows, re.MULTILINE)
    (named,) = re.findall(r"Changes of (.*) require", texts_of(example("watch"))["NOTES.txt"])
    assert set(re.split(", | and ", named)) == set(names.replace("`", "").split(", "))


def test_the_notes_warn_about_replicas_without_a_store() -> None:
    warning = "WARNING: several pods without a store."
    assert {name for name in EXAMPLES if warning in texts_of(example(name))["NOTES.txt"]} == {
        *("two_replicas", "autoscaling")
    }


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"replica": 2}, "additional properties 'replica' not allowed"),
        ({"config": {"upstreams": {"llm": {"base_url": "https://x.example/v1", "dialct": "azure"}}}}, "'dialct' not"),
        ({"config": {"log": {"level": "info"}}}, "missing property 'upstreams'"),
        ({"resources": {"limits": {"memory": "512mb"}}}, "does not match pattern"),
        ({"proxy": {"url": "http://user:secret@proxy.corp.example:3128"}}, "does not match pattern"),
        ({"fullnameOverride": "true"}, "'not' failed"),
        ({"image": {"tag": "x\n          command: [sh]"}}, "does not match pattern"),
        ({"existingSecret": "a, optional: true}\n          x: {y: z"}, "does not match pattern"),
        ({"ca": {"pem": "X", "key": "a b: c"}}, "does not match pattern"),
        ({"env": {"A\n  value: x\n- name: B": "1"}}, "does not match pattern"),
        ({"probes": {"readiness": {"exec": {"command": ["true"]}}}}, "'not' failed"),
        ({"valkey": {"maxMemory": "64mb; rm -rf /"}}, "does not match pattern"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(HelmValuesError, match=reason):
        rendered(values)


PLAIN = "Plain-4-Everyone"


@pytest.mark.parametrize(
    "config",
    [
        {"access": {"keys": [{"name": "a", "key": PLAIN}]}},
        {"credentials": {"corp": {"client_secret": PLAIN}}},
        {"credentials": {"corp": {"extra": {"client_assertion": PLAIN}}}},
        {"credentials": {"corp": {"token_url": f"https://user:{PLAIN}@sso.corp.example/token"}}},
        {"upstreams": {"llm": {"headers": {"Authorization": f"Bearer {PLAIN}"}}}},
        {"upstreams": {"llm": {"base_url": f"https://user:{PLAIN}@llm.corp.example/v1"}}},
        {"tracing": {"endpoint": f"https://user:{PLAIN}@collector.corp.example"}},
        {"store": {"url": f"valkeys://user:{PLAIN}@cache.corp.example", "encryption_key": "${file:/run/secrets/a}"}},
        {"store": {"url": "valkeys://cache.corp.example", "encryption_key": PLAIN * 3}},
        {"store": {"url": "valkeys://cache.corp.example", "encryption_key": "${A}", "password": PLAIN}},
        {"network": {"proxy": "http://proxy.corp.example:3128", "proxy_auth": f"user:{PLAIN}"}},
        {"network": {"proxy": f"http://user:{PLAIN}@proxy.corp.example:3128"}},
    ],
)
def test_a_secret_in_plain_text_is_refused(config: dict[str, Any]) -> None:
    """It would be in the ConfigMap, which many may read. One line names its place, below the two lines of Helm."""
    with pytest.raises(HelmValuesError, match=rf"{PLAIN}.*' does not match pattern '") as caught:
        rendered(merged(example("oauth2"), {"config": config}))
    assert [line[:6] for line in str(caught.value).strip().splitlines()] == ["values", "gatepa", "- at '"]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ({"type": "ouath2"}, "value must be one of 'oauth2', 'http_json'"),
        ({"client_sekret": "${A}"}, "additional properties 'client_sekret' not allowed"),
    ],
)
def test_a_wrong_credential_is_refused_with_one_line(kind: dict[str, Any], reason: str) -> None:
    with pytest.raises(HelmValuesError, match=reason) as caught:
        rendered(merged(example("oauth2"), {"config": {"credentials": {"corp": kind}}}))
    assert len(str(caught.value).strip().splitlines()) == 3


def test_references_and_members_without_a_secret_are_accepted() -> None:
    config = {
        "credentials": {"corp": {"token_url": "https://${SSO_HOST}:8443/a@b", "extra": {"requested_token_use": "obo"}}},
        "upstreams": {
            "llm": {"headers": {"x-team": "search", "X-Api-Key": "Bearer ${file:/run/secrets/gatepass/key}"}}
        },
        "tracing": {"endpoint": "${COLLECTOR}"},
    }
    rendered(merged(example("oauth2"), {"config": config}))


def test_large_numbers_outside_the_configuration_have_no_exponent() -> None:
    variables = {"A": 1073741824, "B": 0.5, "C": True, "D": "1e3"}
    assert environment({"env": variables}).items() >= {"A": "1073741824", "B": "0.5", "C": "true", "D": "1e3"}.items()


def test_names_that_yaml_reads_as_other_types_stay_texts() -> None:
    values = {
        "existingSecret": "true",
        "existingConfigMap": "123",
        "tls": {"existingSecret": "123"},
        "serviceAccount": {"name": "null"},
        "image": {"tag": "1.10"},
    }
    for found in rendered(values).values():
        kubernetes_validate.validate(found, KUBERNETES[0], strict=True)
    assert pod(values)["serviceAccountName"] == "null"  # the schemas accept no name too


def test_labels_of_the_pods_do_not_replace_those_that_select_them() -> None:
    spec = rendered({"podLabels": {"app.kubernetes.io/name": "other", "team": "a"}})["Deployment", "gatepass"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert labels.items() >= {**spec["selector"]["matchLabels"], "team": "a"}.items()


def test_the_network_policy_allows_the_ports_of_the_urls() -> None:
    def ports(values: Mapping[str, Any]) -> set[int]:
        values = merged(values, {"networkPolicy": {"enabled": True}})
        rules = rendered(values)["NetworkPolicy", "gatepass"]["spec"]["egress"]
        return {port["port"] for rule in rules for port in rule["ports"]}

    assert ports({}) == ports(example("oauth2")) == {53, 443}
    assert ports(example("proxy")) == {53, 443, 3128}
    assert ports(example("own_store")) == {53, 443, 6379}
    config = {
        "credentials": {"corp": {"token_url": "https://sso.corp.example:8443/t"}},
        "upstreams": {"llm": {"base_url": "http://vllm.ns.svc:8000/v1", "allow_plain_http": True}},
        "tracing": {"endpoint": "http://collector.monitoring:4318"},
        "store": {"url": "valkeys://[fd00::1]:6380/0", "encryption_key": "${file:/run/secrets/gatepass/b}"},
        "mcp": {"tools": {"url": "http://tools.ns.svc/mcp"}},
        "server": {"cors_origins": ["http://pages.corp.example:3000"]},
    }
    assert ports(merged(example("oauth2"), {"config": config})) == {53, 80, 443, 4318, 6380, 8000, 8443}


def test_valkey_requires_a_configuration_and_its_secrets() -> None:
    with pytest.raises(HelmRenderError, match=r"valkey\.enabled requires config"):
        rendered({"valkey": {"enabled": True}})
    with pytest.raises(HelmRenderError, match=r"valkey\.enabled requires secrets\.store_key"):
        rendered(merged(example("valkey"), {"secrets": {"client_secret": "a"}}))


def test_the_valkey_server_gets_the_acl_of_the_page() -> None:
    (container,) = rendered(example("valkey"))["StatefulSet", "gatepass-valkey"]["spec"]["template"]["spec"][
        "containers"
    ]
    page = (ROOT / "docs/operations/store.md").read_text()
    (line,) = re.findall(r"^user gatepass on .*$", page, re.MULTILINE)
    assert line.replace("PASSWORD", "%s") in container["args"][0]
    assert "--maxmemory-policy noeviction" in container["args"][0]


def test_probes_and_scrapes_use_https_with_a_certificate() -> None:
    values = merged(example("tls"), example("monitoring"))
    probes = [pod(values)["containers"][0][f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")]
    assert [probe["httpGet"]["scheme"] for probe in probes] == ["HTTPS"] * 3
    (endpoint,) = rendered(values)["ServiceMonitor", "gatepass"]["spec"]["endpoints"]
    assert endpoint["scheme"] == "https"
    plain = merged(example("tls"), {"config": {"server": {"tls": None}}})
    assert pod(plain)["containers"][0]["readinessProbe"]["httpGet"]["scheme"] == "HTTP"


# what others scrape and route


def test_the_service_monitor_scrapes_with_the_key_of_a_viewer() -> None:
    spec = rendered(example("monitoring"))["ServiceMonitor", "gatepass"]["spec"]
    (endpoint,) = spec["endpoints"]
    assert endpoint == {
        "port": "http",
        "path": "/metrics",
        "interval": "15s",
        "scheme": "http",
        "authorization": {"credentials": {"name": "gatepass", "key": "metrics_key"}},
    }
    service = rendered(example("monitoring"))["Service", "gatepass"]
    assert spec["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["metadata"]["labels"][spec["jobLabel"]] == "gatepass"


def test_the_route_reaches_the_service_without_a_timeout() -> None:
    objects = rendered(example("gateway"))
    (rule,) = objects["HTTPRoute", "gatepass"]["spec"]["rules"]
    (port,) = objects["Service", "gatepass"]["spec"]["ports"]
    assert rule == {"backendRefs": [{"name": "gatepass", "port": port["port"]}], "timeouts": {"request": "0s"}}


STREAMS = {"proxy-buffering": "off", "proxy-body-size": "0", "proxy-read-timeout": "3600", "proxy-send-timeout": "3600"}


@pytest.mark.parametrize(
    ("values", "annotations"),
    [
        ({}, STREAMS),
        (example("tls"), {**STREAMS, "backend-protocol": "HTTPS"}),
        (
            {"ingress": {"annotations": {"nginx.ingress.kubernetes.io/proxy-read-timeout": "60"}}},
            {"proxy-read-timeout": "60"},
        ),
    ],
)
def test_the_ingress_reaches_the_service_and_passes_streams_on(
    values: dict[str, Any], annotations: dict[str, str]
) -> None:
    objects = rendered(merged(example("ingress"), values))
    ingress = objects["Ingress", "gatepass"]
    found = ingress["metadata"]["annotations"]
    assert found.items() >= {f"nginx.ingress.kubernetes.io/{name}": text for name, text in annotations.items()}.items()
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    (port,) = objects["Service", "gatepass"]["spec"]["ports"]
    assert (rule["host"], path["path"], path["pathType"]) == ("llm.apps.corp.example", "/", "Prefix")
    assert path["backend"] == {"service": {"name": "gatepass", "port": {"name": port["name"]}}}
    assert ingress["spec"]["tls"] == [{"secretName": "llm-tls", "hosts": ["llm.apps.corp.example"]}]


def test_no_secret_is_in_the_environment_or_the_configuration() -> None:
    """But in the Secret, whose keys are the files."""
    values = merged(example("oauth2"), {"secrets": {"client_secret": "s3cret-of-the-client"}})
    objects = rendered(values)
    assert objects.pop(("Secret", "gatepass"))["stringData"] == {"client_secret": "s3cret-of-the-client"}
    assert "s3cret" not in json.dumps(list(objects.values()))
    (volume,) = [volume for volume in pod(values)["volumes"] if volume["name"] == "secrets"]
    assert volume["secret"] == {"secretName": "gatepass", "defaultMode": 0o440, "optional": False}
