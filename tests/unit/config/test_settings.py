from gatepass.config.credential.kinds import KINDS
from gatepass.config.settings import all_settings, did_you_mean, pattern_of, unknown_setting


def test_every_setting_is_known_by_its_pattern():
    known = all_settings()
    assert known["server", "port"].default == 8080
    assert known["upstreams", "*", "base_url"].required
    assert known["credentials", "*", "json"].members == {"http_json"}
    assert known["credentials", "*", "timeout_s"].members == set(KINDS)
    assert known["models", "*", "targets", "*", "upstream"].required
    assert known["upstreams", "*", "network"].is_block
    assert not known["upstreams", "*", "forward_headers"].is_block


def test_names_of_the_users_choice_become_stars():
    known = all_settings()
    assert pattern_of(("upstreams", "chat", "network", "ca"), known) == ("upstreams", "*", "network", "ca")
    assert pattern_of(("access", "keys", 3, "x"), known) == ("access", "keys", "*", "x")
    assert pattern_of(("nothing", "like"), known) == ("nothing", "like")


def test_an_unknown_name_is_answered_with_the_nearest_one():
    tree = {"credentials": {"c": {"type": "http_json"}, "d": {}}}

    def told(*path):
        return unknown_setting(path, tree)

    assert told("server", "prot") == "is not a setting; did you mean port?"
    assert told("credentials", "c", "client_auth") == "belongs to type oauth2, not to http_json"
    assert told("credentials", "c", "methode") == "is not a setting; did you mean method?"
    shared = "timeout_s, default_ttl_s, max_ttl_s, network, allow_plain_http, carry, type"
    own = "preset, url, method, headers, query, json, form, basic, sign, reply"
    plain = "apikey, client_id, client_secret, username, password, domain, project, scope, base_url"
    begin, _, names = told("credentials", "c", "tocken_ur").partition(": ")
    assert begin == "is not a setting; known here"
    assert sorted(names.split(", ")) == sorted(f"{shared}, {own}, {plain}".split(", "))
    assert told("drain_timeout_s") == "is not a setting here; did you mean server.drain_timeout_s?"
    assert told("log", "zzzzzz") == "is not a setting; known here: format, level, bodies"


def test_a_word_is_answered_with_the_nearest_or_all_or_nothing():
    assert did_you_mean("corp", ["crop", "x"]) == "; did you mean crop?"
    assert did_you_mean("corp", ["x", "y"]) == "; there is x, y"
    assert did_you_mean("corp", []) == ""


def test_blocks_inside_a_credential_know_their_settings():
    tree = {"credentials": {"d": {"type": "http_json", "reply": {"type": "jwt"}}}}

    def told(*path):
        return unknown_setting(("credentials", "d", *path), tree)

    assert told("reply", "tokn") == "is not a setting; did you mean token?"
    assert told("reply", "expires_inn") == "is not a setting; did you mean expires_in?"
    assert told("reply", "zzzzzz") == "is not a setting; known here: token, expires_in, expires_at, unit, header"
    assert told("network", "prox") == "is not a setting; did you mean proxy?"


def test_a_name_is_looked_for_in_its_own_block_first_then_inside_it_and_then_where_it_is():
    tree = {
        "upstreams": {"chat": {}},
        "credentials": {"o": {"type": "oauth2"}, "k": {"type": "api_key"}, "s": {"type": "static"}},
    }

    def told(*path):
        return unknown_setting(path, tree)

    assert told("upstreams", "chat", "url") == "is not a setting; did you mean base_url?"
    assert told("upstreams", "chat", "api_base") == "is not a setting; did you mean base_url?"
    assert told("upstreams", "chat", "api_key") == "is not a setting; did you mean credential?"
    assert told("upstreams", "chat", "shape") == "is not a setting; did you mean rerank_shape?"
    assert told("upstreams", "chat", "proxy") == "is not a setting here; did you mean network.proxy?"
    assert told("credentials", "o", "url") == "belongs to type http_json, not to oauth2; did you mean token_url?"
    assert told("credentials", "k", "token") == "belongs to type static, not to api_key; did you mean key?"
    assert told("credentials", "s", "api_key") == "is not a setting; did you mean token?"
    assert told("rerank_shape") == "is not a setting here; did you mean upstreams.NAME.rerank_shape?"
    assert told("server", "url").startswith("is not a setting; known here: ")
