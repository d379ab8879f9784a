"""What /openapi.json promises is true, whatever is sent: by schemathesis, against a real server."""

from contextlib import suppress

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from serving import data_url, picture, png, served
from tiny_bundle import make_tiny_bundle

from tam_edge.apps.serve.schema import ChatRequest

EXAMPLES = 25
"""For each operation."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(make_tiny_bundle(tmp_path_factory.mktemp("tiny"))) as server:
        yield server


@pytest.fixture(scope="module")
def api(server):
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def test_no_request_finds_a_mistake_of_ours(api):
    statuses = {}
    for result in api.get_all_operations():
        operation = result.ok()
        for mode in schemathesis.GenerationMode:

            @given(operation.as_strategy(generation_mode=mode))
            @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), database=None)
            def asked(case):
                statuses.setdefault(case.path, set()).add(checked(case).status_code)

            with suppress(Unsatisfiable):  # where there is nothing to be wrong
                asked()
    assert {200, 400} <= statuses["/v1/chat/completions"]
    assert all(200 in found or path == "/v1/models/{model}" for path, found in statuses.items())


def checked(case):
    """The response to a case, once it is one that the description promises."""
    if isinstance(case.body, dict) and "model" in case.body:
        case.body = nearer(case.body)
    response = case.call(timeout=60)
    if response.status_code == 503:
        assert response.headers["retry-after"][0].isdecimal()
    else:
        assert response.status_code < 500
    responses = case.operation.definition.raw["responses"]
    kind = response.headers["content-type"][0].partition(";")[0]
    assert kind in responses[str(response.status_code)]["content"]
    return response


def nearer(request):
    """The same request for the model that is there, about pictures that exist: most would be refused for these."""
    request = {**request, "model": "tiny"}
    if isinstance(request.get("messages"), list):
        question = {"role": "user", "content": [picture(1), {"type": "text", "text": "how many?"}]}
        request["messages"] = [*(shown(message) for message in request["messages"][:100]), question]
    return request


def shown(message):
    if not isinstance(message, dict) or not isinstance(message.get("content"), list):
        return message
    return {**message, "content": [part_shown(part) for part in message["content"]]}


def part_shown(part):
    if isinstance(part, dict) and isinstance(part.get("image_url"), dict) and "url" in part["image_url"]:
        return {**part, "image_url": {**part["image_url"], "url": data_url(png(1))}}
    return part


def test_the_description_names_the_request(server):
    api = schemathesis.openapi.from_url(f"{server.url}/openapi.json").raw_schema
    body = api["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/ChatRequest"}
    fields = api["components"]["schemas"]["ChatRequest"]["properties"]
    assert set(fields) == set(ChatRequest.model_fields)
