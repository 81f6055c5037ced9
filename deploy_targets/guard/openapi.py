"""What the guard serves, as an OpenAPI document; what requests may hold comes from the models that read them. Pure."""

from typing import Any

from deploy_targets.guard.feedback_body import feedback_schema
from deploy_targets.guard.wire import chat_schema

_BODY_ERRORS = {
    "400": "The request is not one, or is refused by the model or by a rule.",
    "401": "No API key, or an unknown one.",
    "403": "The key is good, and not for this.",
    "404": "Another model is asked for than the one that answers here.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "429": "A limit is reached.",
    "500": "The engine says that it failed.",
    "502": "The version cannot be reached, or its answer is none.",
    "503": "Nobody can be let in at present, or the engine has no room.",
    "504": "The version did not answer in time.",
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {"message": {"type": "string"}, "type": {"type": "string"}},
        }
    },
}


def openapi_document(endpoint: str) -> dict[str, Any]:
    """The document of an endpoint, whose name is the model's."""
    chat = chat_schema()
    properties: dict[str, Any] = chat["properties"]
    properties["model"] = {"const": endpoint}
    prompted = {
        **chat,
        "properties": {
            "prompt": {"type": "string"},
            **{name: one for name, one in properties.items() if name != "messages"},
        },
        "required": ["model", "prompt"],
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Shipway guard of {endpoint}", "version": "1"},
        "paths": {
            "/v1/chat/completions": {"post": _asking(chat, "chat.completion")},
            "/v1/completions": {"post": _asking(prompted, "text_completion")},
            "/v1/feedback": {
                "post": {
                    "summary": "What a user says of an answer; a later word takes the place of an earlier one.",
                    "requestBody": {
                        "required": True,
                        "content": {"application/json": {"schema": feedback_schema()}},
                    },
                    "responses": {
                        "200": _json("It is counted.", {"type": "object"}),
                        "404": _json("This key has had no such answer lately.", _ERROR),
                        **_errors("400", "401", "403", "408", "413", "503"),
                    },
                }
            },
            "/v1/models": {
                "get": {
                    "summary": "The one model that answers here.",
                    "responses": {
                        "200": _json("A list of one.", {"type": "object"}),
                        **_errors("401", "403", "503"),
                    },
                }
            },
        },
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{"key": []}],
    }


def _asking(body: dict[str, Any], kind: str) -> dict[str, Any]:
    answer = {
        "type": "object",
        "required": ["choices"],
        "properties": {"choices": {"type": "array", "minItems": 1}},
    }
    whole = _json(f"A {kind}; or, where `stream` is true, its events.", answer)
    whole["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    return {
        "summary": f"Asks for a {kind}.",
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": whole, **_errors(*_BODY_ERRORS)},
    }


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _errors(*statuses: str) -> dict[str, Any]:
    return {status: _json(_BODY_ERRORS[status], _ERROR) for status in statuses}
