"""What one writes first: a FastAPI endpoint that decodes a picture and runs it through ONNX Runtime, one at a time."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from fastapi import FastAPI, Request
from PIL import Image

from pixelfit.graphs import INPUT, session_of

app = FastAPI()
session = session_of(Path(os.environ["PLAIN_GRAPH"]))


@app.post("/predict")
async def predict(request: Request) -> dict[str, float]:
    """The value predicted for the grey picture in the body."""
    with Image.open(io.BytesIO(await request.body())) as picture:
        pixels = np.asarray(picture.convert("L"))[None, :, :, None]
    outputs = session.run(["prediction", "low", "high"], {INPUT: pixels})
    return dict(zip(("prediction", "low", "high"), (float(each[0]) for each in outputs), strict=True))
