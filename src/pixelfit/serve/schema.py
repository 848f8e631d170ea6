"""What OpenAPI tells of the requests that bring pictures, with examples."""

from __future__ import annotations

from pixelfit.types import Json

_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
_DETAIL = {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]}
_REFUSALS = {
    "400": "The request is not what its head says, or brings no picture.",
    "401": "The server needs a token.",
    "413": "A file, the request or a picture is too large, or there are too many files.",
    "415": "The content type is not taken.",
    "422": "A file is no picture, is damaged, or is not of the kind that the model was trained on.",
    "429": "Too many requests are under way.",
    "503": "The server is not ready.",
    "504": "There was no answer in time.",
}
_ITEM = {
    "type": "object",
    "properties": {
        "name": {"type": ["string", "null"], "description": "The file's name, if it was sent with one."},
        "error": {"type": ["string", "null"], "description": "Why this file of several cannot be used."},
        "prediction": {"description": "A number; an object of numbers; a label; or a list of labels."},
        "low": {"description": "The interval's lower end, of the form of the prediction."},
        "high": {"description": "The interval's upper end."},
        "probabilities": {"type": "array", "description": "Pairs of class and probability, the most probable first."},
        "set": {"type": "array", "description": "Classes, one of which is true as often as the coverage says."},
        "unlike": {"type": "boolean", "description": "Whether the picture is unlike anything seen in training."},
        "strangeness": {"type": "number", "description": "How unlike; above 1 only 1 in 100 of the same kind would be."},
    },
}
_HEAD = {"model": {"type": "string"}, "milliseconds": {"type": "number"}}
_NUMBER = {"name": "seven.png", "error": None, "prediction": 7.02, "low": 6.8, "high": 7.3, "unlike": False, "strangeness": 0.41}
_LABEL = {
    "name": None, "error": None, "prediction": "cat", "probabilities": [["cat", 0.93], ["dog", 0.07]], "set": ["cat"],
    "unlike": False, "strangeness": 0.62,
}  # fmt: skip
_BROKEN = {"name": "notes.txt", "error": "The file cannot be used: it is not a picture."}


def _pictures(*, several: bool) -> Json:
    file = {"type": "string", "format": "binary"}
    form = {"type": "object", "required": ["files"], "properties": {"files": {"type": "array", "items": file}}}
    content: Json = {
        "image/*": {"schema": file},
        "application/octet-stream": {"schema": file},
        "multipart/form-data": {"schema": form},
    }
    named = {"type": "object", "required": ["data"], "properties": {"name": {"type": "string"}, "data": {"type": "string"}}}
    entry = {"anyOf": [{"type": "string", "contentEncoding": "base64"}, named]}
    content["application/json"] = {
        "schema": {"type": "object", "required": ["pictures"], "properties": {"pictures": {"type": "array", "items": entry}}},
        "examples": {"one": {"value": {"pictures": [_PIXEL]}}},
    }
    if several:
        content["application/json"]["examples"]["named"] = {"value": {"pictures": [{"name": "a.png", "data": _PIXEL}]}}
    return {"required": True, "content": content}


def _answers(schema: Json, examples: Json) -> Json:
    good = {"description": "Predictions.", "content": {"application/json": {"schema": schema, "examples": examples}}}
    refusals = {
        status: {"description": words, "content": {"application/json": {"schema": _DETAIL}}}
        for status, words in _REFUSALS.items()
    }
    return {"200": good, **refusals}


PREDICT: Json = {
    "requestBody": _pictures(several=True),
    "responses": _answers(
        {"type": "object", "properties": {**_HEAD, "predictions": {"type": "array", "items": _ITEM}}},
        {
            "number": {"value": {"model": "3f9c2a1b", "milliseconds": 3.1, "predictions": [_NUMBER]}},
            "label": {"value": {"model": "3f9c2a1b", "milliseconds": 3.1, "predictions": [_LABEL]}},
            "several": {"value": {"model": "3f9c2a1b", "milliseconds": 5.2, "predictions": [_NUMBER, _BROKEN]}},
        },
    ),
}
_LOOKED_AT = {"rows": 2, "columns": 2, "values": [1.0, 0.2, -0.1, 0.0]}
_NEAREST = {"name": "train/0012.png", "target": "7", "picture": f"data:image/png;base64,{_PIXEL}"}
EXPLAIN: Json = {
    "requestBody": _pictures(several=False),
    "responses": _answers(
        {
            "type": "object",
            "properties": {
                **_HEAD,
                "prediction": _ITEM,
                "looked_at": {"type": ["object", "null"], "description": "Fields of the picture, row by row, from -1 to 1."},
                "of": {"type": "string", "description": "The class or target that the fields raised or lowered."},
                "nearest": {"type": "array", "description": "The training pictures that are nearest to this one."},
            },
        },
        {
            "number": {
                "value": {
                    "model": "3f9c2a1b", "milliseconds": 41.0, "prediction": _NUMBER, "looked_at": _LOOKED_AT, "of": "",
                    "nearest": [_NEAREST],
                }
            }
        },
    ),
}  # fmt: skip
