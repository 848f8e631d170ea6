"""The learning curve over the number of pictures: which shares of them, and for how many steps."""

from __future__ import annotations

BUDGET_SHARE = 0.04  # of the time, for the whole curve
SHORTEST_BUDGET_S = 60.0
_LARGER = 0.55  # of the curve's time, for the larger share
_SMALLER = 1 / 4  # of the larger share
_MOST = 1 / 2  # of the pictures: closer shares are hard to tell apart
_FEWEST_PICTURES = 40
# A training on a few hundred pictures that ends sooner has not learned them, and makes more pictures look better than they are.
_FEWEST_STEPS, _STEPS_WANTED = 150, 300


def lessons(steps: int, seconds: float, pictures: int, *, allowed_s: float) -> tuple[tuple[float, int], ...]:
    """Shares of the pictures, the smaller first, each with its steps; nothing where the training takes too long for that.

    Args:
        steps: behind the weights of the trial whose recipe is trained on the shares from scratch, those of trials that it went
            on from among them; 0 where its family is not trained in steps.
        seconds: that they took.
        pictures: in its training set.
        allowed_s: for all shares together.
    """
    larger = min(_MOST, _LARGER * allowed_s / max(seconds, 1e-9))
    shares = (larger * _SMALLER, larger)
    if shares[0] * pictures < _FEWEST_PICTURES:
        return ()
    if not steps:
        return tuple((share, 0) for share in shares)
    least = min(_STEPS_WANTED, steps, int((1 - _LARGER) * allowed_s / seconds * steps))
    if least < _FEWEST_STEPS:
        return ()
    return tuple((share, max(least, round(share * steps))) for share in shares)
