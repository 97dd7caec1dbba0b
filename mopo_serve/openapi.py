"""The gateway's routes as an OpenAPI document, for clients that are generated and tests that are.

Bodies are the models that the routes themselves read. What only the engine reads (messages, tools, sampling) is left to
OpenAI's own description and vLLM's: the gateway passes it through.
"""

import functools
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from mopo_train import __version__

Schema = dict[str, Any]
ERRORS = {
    "400": "The request cannot be understood; `param` names the field.",
    "401": "The API key is missing, unknown or revoked.",
    "403": "The key is good, but not for this.",
    "404": "There is no such thing.",
    "405": "The route does not know this method.",
    "408": "The request took too long to arrive.",
    "409": "Nothing was changed, because what was asked for cannot go live.",
    "413": "The body is too large.",
    "415": "The engine does not take this kind of content.",
    "422": "`infeasible_profile`: no policy holds the floors; `best_attainable` and `closest` say what would.",
    "429": "A limit of the key or of the engine; see Retry-After.",
    "431": "The head of the request is too large.",
    "502": "The engine failed.",
    "503": "Nothing answers now; see Retry-After.",
    "504": "The engine did not answer in time.",
}
USUAL = ("400", "401", "405", "408", "431")
ENGINE = ("403", "404", "413", "415", "422", "429", "502", "503", "504")
STAMPS = {
    "x-request-id": "Names the request in logs, in the audit and for feedback; the client's own if it is plain.",
    "x-mopo-family": "The family that answers: directory name and digest.",
}
CHOICE = {
    "x-mopo-policy": "The policy that answered.",
    "x-mopo-profile": "The profile that was asked for, policy/<id> for a pinned policy, - for none.",
}


@functools.cache
def document() -> Schema:
    """The OpenAPI document (3.1); nobody may change it."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "MOPO gateway",
            "version": __version__,
            "description": "OpenAI's API, where a threshold profile picks the policy that answers. Routes whose "
            "feature is switched off (audit, administration) answer 404.",
        },
        "paths": _paths(),
        "components": {"schemas": _schemas(), "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{"key": []}, {}],  # none is needed while no keys exist
    }


def _paths() -> Schema:
    name = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    table = {
        "name": "table",
        "in": "path",
        "required": True,
        "schema": {"enum": ["decisions", "feedback", "events"]},
    }
    page = [
        {"name": field, "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 10**18 - 1}}
        for field in ("before", "limit")
    ]
    return {
        "/v1/models": {"get": _route("Profiles, and policies for keys that may pin one.", "Models")},
        "/v1/models/{model}": {"get": _route("One of them.", "Model", "404") | {"parameters": [name]}},
        "/v1/chat/completions": {"post": _completion("Chat", "Answer a conversation.")},
        "/v1/completions": {"post": _completion("Completion", "Continue a text.")},
        "/v1/profiles/resolve": {
            "post": _route("Which policy would serve, and why; generates nothing.", "Resolved", "403", "404", "413")
            | _body("ResolveBody")
        },
        "/v1/feedback": {
            "post": _route("Judge an earlier answer.", "Stored", "404", "413", "429", "503") | _body("FeedbackBody")
        },
        "/v1/audit/{table}": {
            "get": _route("A page of the audit, newest first; wants a key with the right.", "Rows", "403", "404", "503")
            | {"parameters": [table, *page]}
        },
        "/admin/reload": {"post": _route("Go live with what is on disk.", "Anything", "403", "404", "409")},
        "/admin/rollout": {
            "get": _route("Both versions side by side.", "Anything", "403", "404"),
            "post": _route("Give a new version a share.", "Anything", "403", "404", "409", "413")
            | _body("RolloutBody"),
        },
        "/admin/rollout/promote": {"post": _route("Make it the only one.", "Anything", "403", "404", "409")},
        "/admin/rollout/rollback": {"post": _route("Take it back.", "Anything", "403", "404", "409")},
        "/healthz": {"get": _open("True while the process lives.", "Anything")},
        "/readyz": {"get": _open("200 while an engine answers.", "Anything", "503")},
        "/metrics": {"get": _open("Metrics for Prometheus.", None)},
        "/openapi.json": {"get": _route("This document.", "Anything")},
    }


def _route(summary: str, answer: str | None, *errors: str) -> Schema:
    responses: Schema = {"200": _answer("It worked.", {} if answer is None else {"application/json": _ref(answer)})}
    for status in sorted({*USUAL, *errors}):
        responses[status] = _answer(ERRORS[status], {"application/json": _ref("Error")})
    return {"summary": summary, "responses": responses}


def _open(summary: str, answer: str | None, *errors: str) -> Schema:
    route = _route(summary, answer, *errors) | {"security": []}
    if answer is None:
        route["responses"]["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    return route


def _completion(body: str, summary: str) -> Schema:
    route = _route(summary, "Anything", *ENGINE) | _body(body)
    done = route["responses"]["200"]
    done["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    done["headers"] |= _headers(CHOICE)
    return route


def _answer(description: str, content: Schema) -> Schema:
    return {"description": description, "content": content, "headers": _headers(STAMPS)}


def _headers(named: dict[str, str]) -> Schema:
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in named.items()}


def _body(name: str) -> Schema:
    return {"requestBody": {"required": True, "content": {"application/json": _ref(name)}}}


def _ref(name: str) -> Schema:
    return {"schema": {"$ref": f"#/components/schemas/{name}"}}


def _schemas() -> Schema:
    from mopo_serve.admin import RolloutBody
    from mopo_serve.feedback import FeedbackBody
    from mopo_serve.requests import RequestedProfile, ResolveBody

    models: list[type[BaseModel]] = [RequestedProfile, ResolveBody, FeedbackBody, RolloutBody]
    _, defined = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    schemas: Schema = defined["$defs"]
    profile = {"anyOf": [{"$ref": "#/components/schemas/RequestedProfile"}, {"type": "null"}]}
    schemas["ResolveBody"]["properties"]["objective_profile"] = profile
    asked = {"model": {"type": "string", "description": "mopo/<profile>, mopo, or mopo/policy/<id>"}}
    passed = {"type": "object", "properties": asked | {"objective_profile": profile}, "additionalProperties": True}
    number = {"type": ["number", "null"]}
    return schemas | {
        "Chat": passed | {"required": ["model"]},
        "Completion": passed | {"required": ["model"]},
        "Anything": {"type": "object"},
        "Model": _object(id="string", object="string", created="integer", owned_by="string"),
        "Models": _object(object="string", data={"type": "array", "items": {"$ref": "#/components/schemas/Model"}}),
        "Rows": _object(object="string", data={"type": "array", "items": {"type": "object"}}),
        "Stored": _object(
            request_id="string",
            policy="string",
            profile="string",
            family="string",
            stored={"type": "array", "items": {"type": "string"}},
            kept={"type": "array", "items": {"type": "string"}},
        ),
        "Resolved": _object(
            policy={"type": ["string", "null"]},
            feasible="boolean",
            profile={"type": ["string", "null"]},
            floors={"type": "object", "additionalProperties": {"type": "number"}},
            policies={
                "type": "array",
                "items": _object(
                    id="string", margins={"type": "object", "additionalProperties": number}, meets="boolean"
                ),
            },
            reason="string",
        ),
        "Error": _object(
            error=_object(
                message="string", type="string", param={"type": ["string", "null"]}, code={"type": ["string", "null"]}
            )
        ),
    }


def _object(**members: str | Schema) -> Schema:
    """An object that has at least ``members``, each of them a JSON type or a schema."""
    properties = {name: {"type": kind} if isinstance(kind, str) else kind for name, kind in members.items()}
    return {"type": "object", "properties": properties, "required": list(members)}
