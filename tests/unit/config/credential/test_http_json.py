from gatepass.config.credential.http_json import HttpJsonCredential

URL = {"type": "http_json", "url": "https://portal.example/login"}


def shown(**block: object) -> dict[str, object]:
    dumped = HttpJsonCredential.model_validate({**URL, **block}).model_dump(mode="json", by_alias=True)
    return {name: dumped[name] for name in ("headers", "query", "form", "json")}


def test_the_values_of_a_login_are_hidden():
    found = shown(
        headers={"Accept": "text/plain", "X-Key": "top-secret"},
        query={"grant_type": "x", "n": "{nonce}", "key": "top-secret{nonce}"},
        json={"a": ["top-secret", 5], "b": "{signature}", "c": ("{timestamp:number}",)},
    )
    assert found == {
        "headers": {"Accept": "(hidden)", "X-Key": "(hidden)"},
        "query": {"grant_type": "(hidden)", "n": "(hidden)", "key": "(hidden)"},
        "form": None,
        "json": {"a": ["(hidden)", "(hidden)"], "b": "(hidden)", "c": ["(hidden)"]},
    }
    assert shown(form={"scope": "all", "pin": "123456"})["form"] == {"scope": "(hidden)", "pin": "(hidden)"}
    assert shown()["json"] is None
