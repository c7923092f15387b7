"""Who gets past the edge: every route, with no, a wrong and the right token; hosts and origins; binds."""

import httpx
import pytest

from agentsys.protocols.edge import UnprotectedBind, check_bind


def routes(client: httpx.Client) -> list[tuple[str, str]]:
    paths = client.get("/api/v1/openapi.json").json()["paths"]
    found = [(method, f"/api/v1{path}") for path, methods in paths.items() for method in methods]
    assert len(found) >= 18
    return [
        (method, path.replace("{run}", "no-such-run").replace("{approval}", "no-such")) for method, path in found
    ] + [
        ("get", "/api/v1/openapi.json"),
        ("get", "/v1/models"),
        ("post", "/a2a"),
        ("get", "/mcp"),
        ("get", "/.well-known/agent-card.json"),
        ("get", "/no/such/route"),
    ]


WRONG = ["", "Bearer", "Bearer wrong", "Basic {token}", "Bearer {token}x", "{token}"]


def test_every_route_refuses_without_the_token(client):
    token = client.headers["Authorization"].removeprefix("Bearer ")
    for method, path in routes(client):
        with httpx.Client(base_url=client.base_url) as stranger:
            for given in [None, *(wrong.replace("{token}", token) for wrong in WRONG)]:
                headers = {} if given is None else {"Authorization": given}
                answer = stranger.request(method, path, headers=headers)
                assert answer.status_code == 401, (method, path, given)
                assert answer.headers["WWW-Authenticate"] == "Bearer"
                assert token not in answer.text


def test_every_route_answers_the_token(client):
    for method, path in routes(client):
        if path.endswith(("tail", "stream")):
            with client.stream(method, path) as answer:
                assert answer.status_code in (200, 404)
        else:
            answer = client.request(method, path)
            assert answer.status_code not in (401, 403, 421), (method, path)
            assert answer.status_code < 500


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8700", "127.0.0.1.evil.example", "", "10.0.0.1"])
def test_a_foreign_host_is_refused_before_the_token_is_read(client, host):
    assert client.get("/api/v1/health", headers={"Host": host}).status_code in (400, 421)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example", "file://", "http://["]
)
def test_a_foreign_origin_is_refused(client, origin):
    assert client.get("/api/v1/health", headers={"Origin": origin}).status_code == 403


def test_the_operators_names_match_in_any_case(runtime, serve):
    named = {"hosts": ("Agents.Example.org",), "origins": ("https://Console.Example.org/",)}
    browser = {"Host": "agents.example.org:8700", "Origin": "https://console.example.org"}
    with serve(runtime, **named) as client:
        assert client.get("/api/v1/health", headers=browser).status_code == 200
        assert client.get("/api/v1/health", headers={"Host": "AGENTS.example.ORG"}).status_code == 200


def test_the_own_origin_is_let_through(client):
    assert client.get("/api/v1/health", headers={"Origin": str(client.base_url).rstrip("/")}).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org"])
def test_no_bind_beyond_loopback_without_a_token(host):
    with pytest.raises(UnprotectedBind):
        check_bind(host, None)
    with pytest.raises(UnprotectedBind):
        check_bind(host, "")
    check_bind(host, "a token of some length")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_loopback_needs_none(host):
    check_bind(host, None)


def test_load_balancers_ask_without_a_token_or_a_name(runtime, serve):
    with serve(runtime) as client:
        stranger = {"Authorization": "", "Host": "10.0.0.7"}
        for path in ("/health", "/ready"):
            assert client.get(path, headers=stranger).status_code in (200, 404)  # 404 where no models are served
        for path in ("/metrics", "/api/v1/health"):
            assert client.get(path, headers={"Authorization": ""}).status_code == 401
        assert client.post("/ready", headers=stranger).status_code == 421
