"""AutoKeras' part of ``vs_autokeras``; runs in a virtual environment of its own, so it imports nothing of pixelfit.

Usage: autokeras_side.py ARRAYS TASK SECONDS OUT [--seed N] [--fixed]

Takes ``train_X.npy`` and so on from ARRAYS; writes predictions for the test pictures and a JSON file into OUT.
"""

import time

BEGAN = time.time()  # the budget counts the libraries' import too, as pixelfit's does

import argparse  # noqa: E402
import json  # noqa: E402
from importlib import metadata  # noqa: E402
from pathlib import Path  # noqa: E402

import autokeras  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402

CURVE: list[dict[str, float]] = []  # AutoKeras copies callbacks for each trial, so what they find lies outside them
SEARCH: dict[str, autokeras.AutoModel] = {}


class Watch(keras.callbacks.Callback):
    """Notes each epoch's validation metrics, and ends the search when its time is over.

    AutoKeras has no limit of wall-clock time. So the epoch under way stops at its next batch, is scored on validation
    data as usual, and no trial follows it.
    """

    def __init__(self, ends: float) -> None:
        super().__init__()
        self.ends = ends

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Look at the clock."""
        if time.time() >= self.ends:
            self.model.stop_training = True
            oracle = SEARCH["model"].tuner.oracle
            oracle.max_trials = len(oracle.trials)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Note when and how good."""
        trial = len(SEARCH["model"].tuner.oracle.trials)
        values = {name: float(value) for name, value in (logs or {}).items()}
        CURVE.append({"seconds": time.time() - BEGAN, "trial": trial, "epoch": epoch + 1, **values})


def main() -> None:
    """Search until the time is over, and predict the test pictures with the best model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arrays", type=Path)
    parser.add_argument("task", choices=["regression", "classification"])
    parser.add_argument("seconds", type=float)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fixed", action="store_true", help="one trial of one epoch and the final fit, without a limit of time")
    chosen = parser.parse_args()
    arrays = {name: np.load(chosen.arrays / f"{name}.npy") for name in ("train_X", "train_y", "val_X", "val_y", "test_X")}
    kind = autokeras.ImageRegressor if chosen.task == "regression" else autokeras.ImageClassifier
    model = kind(max_trials=1 if chosen.fixed else 100, directory=chosen.out / "trials", overwrite=True, seed=chosen.seed)
    SEARCH["model"] = model
    # Trials that begin with pretrained weights fail where these cannot be fetched; three in a row would end the search.
    model.tuner.oracle.max_consecutive_failed_trials = model.tuner.oracle.max_trials
    if chosen.fixed:
        # AutoKeras cuts its own validation set off the end, and trains once more on everything.
        X, y = (np.concatenate([arrays[f"train_{name}"], arrays[f"val_{name}"]]) for name in ("X", "y"))
        model.fit(X, y, epochs=1, callbacks=[Watch(float("inf"))], verbose=2)
    else:
        # With validation data given, AutoKeras keeps the best trial's best epoch; there is no final fit to cut short.
        validation = (arrays["val_X"], arrays["val_y"])
        watch = Watch(BEGAN + chosen.seconds)
        model.fit(arrays["train_X"], arrays["train_y"], validation_data=validation, callbacks=[watch], verbose=2)
    fitted_s = time.time() - BEGAN
    np.save(chosen.out / "test_predictions.npy", np.asarray(model.predict(arrays["test_X"], verbose=0)).reshape(-1))
    best = model.export_model()
    found = {
        "fitted_s": fitted_s,
        "trials": len(model.tuner.oracle.trials),
        "parameters": int(best.count_params()),
        "curve": CURVE,
        "versions": {name: metadata.version(name) for name in ("autokeras", "keras", "tensorflow-cpu")},
    }
    (chosen.out / "found.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
