"""Pictures that are the same, pixel for pixel or nearly so, found without comparing every picture with every other.

Nearly the same are pictures that differ as a photograph and its smaller, brighter or again compressed copy do. Each picture
is brought to 16 × 16 grey values of mean 0 and deviation 1, so that the product of two pictures is their correlation. The
signs of its products with random directions are its perceptual hash (Charikar 2002, "Similarity estimation techniques from
rounding algorithms"): two pictures differ in a bit with a probability of their angle over π. Only pictures whose hashes
share a band of bits are compared, first by their hashes, then by their correlation.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch

from pixelfit.types import Array, Ints

SIDE = 16
# Of 100 photographs, each with a copy of JPEG quality 30 and one of half the size, all pairs have 0.9991 and more. Among MNIST's
# 70,000 digits, no two of which are copies, 5,062 pairs have 0.99 (nearly all of them ones), 209 have 0.995, none 0.998.
LEAST_CORRELATION = 0.998
_BITS = 256
_BANDS = 16  # of 16 bits: two pictures of that correlation, taken off their mean, share one with a probability above 0.999
_NEIGHBOURS = 12  # with how many of those that share a band a picture is compared
_MOST_BITS_APART = 24  # of 256; at that correlation, taken off their mean, it is about 8 ± 3
_FAINTEST = 2.0  # grey levels of deviation: below it a picture is empty, and its noise is nobody's likeness
_CHUNK = 8_192  # pairs compared at once
_NUMBERS_AT_ONCE = 1 << 24  # pixels made smaller together: 64 MiB as floats


def exact_groups(store: Array) -> Ints:
    """For each picture the number of its group: pictures with the same pixels share one. Shape (N,)."""
    first: dict[int, int] = {}  # by checksum, the row of the first such picture; other pictures of that checksum lie beside it
    groups = np.empty(len(store), dtype=np.int64)
    for row, picture in enumerate(store):
        pixels = picture.tobytes()
        place = zlib.crc32(pixels)
        while (same := first.setdefault(place, row)) != row and store[same].tobytes() != pixels:
            place += 1 << 32
        groups[row] = len(first) - 1 if same == row else groups[same]
    return groups


def joined(groups: Ints, *others: Ints) -> Ints:
    """Groups such that rows that share one in any of the given partitions, or through other rows, share one. Shape (N,)."""
    if not others:
        return groups
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows, places, start = [], [], 0
    for partition in (groups, *others):
        _, codes = np.unique(partition, return_inverse=True)
        rows.append(np.arange(len(codes)))
        places.append(codes + start)
        start += int(codes.max(initial=-1)) + 1
    # A graph with the rows on one side and the groups on the other: what hangs together is one group.
    row, place = np.concatenate(rows), np.concatenate(places) + len(groups)
    size = len(groups) + start
    _, component = connected_components(
        coo_matrix((np.ones(len(row), dtype=bool), (row, place)), shape=(size, size)), directed=False
    )
    return np.unique(component[: len(groups)], return_inverse=True)[1].astype(np.int64)


def near_pairs(store: Array, groups: Ints) -> Ints:
    """Pairs of rows, shape (P, 2), that are nearly the same and in different exact groups.

    Args:
        store: pictures (N, H, W, C).
        groups: their exact groups (N,); one picture of each stands for all.
    """
    _, first = np.unique(groups, return_index=True)
    likeness, faint = _likenesses(store, first)
    kept = np.flatnonzero(~faint)
    likeness, rows = likeness[kept], first[kept]
    if len(rows) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    hashes = _hashes(likeness)
    candidates = _candidates(hashes)
    alike = [np.zeros((0, 2), dtype=np.int64)]
    for start in range(0, len(candidates), _CHUNK):
        pairs = candidates[start : start + _CHUNK]
        correlation = np.einsum("ij,ij->i", likeness[pairs[:, 0]], likeness[pairs[:, 1]]) / SIDE**2
        alike.append(pairs[correlation >= LEAST_CORRELATION])
    return np.asarray(rows[np.concatenate(alike)])


def pair_groups(pairs: Ints, rows: int) -> Ints:
    """A partition of ``rows`` rows in which the two of each pair, and whatever hangs together by pairs, share a group."""
    if not len(pairs):
        return np.arange(rows)
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    matrix = coo_matrix((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(rows, rows))
    return np.asarray(connected_components(matrix, directed=False)[1].astype(np.int64))


def _likenesses(store: Array, rows: Ints) -> tuple[Array, Array]:
    """Standardised grey thumbnails (N, 256) of these rows, and which of them are too faint to be told from noise."""
    scale = (
        255.0 / max(float(np.percentile(store[rows[:: max(1, len(rows) // 1000)]], 99.9)), 1e-12)
        if store.dtype != np.uint8
        else 1.0
    )
    thumbnails = np.empty((len(rows), SIDE * SIDE), dtype=np.float32)
    at_once = max(1, _NUMBERS_AT_ONCE // store[0].size)
    for start in range(0, len(rows), at_once):
        grey = torch.from_numpy(store[rows[start : start + at_once]]).float().mean(dim=3)
        small = torch.nn.functional.adaptive_avg_pool2d(grey[:, None], SIDE)
        thumbnails[start : start + len(small)] = small.flatten(1).numpy()
    deviation = thumbnails.std(axis=1, keepdims=True)
    faint = deviation[:, 0] * scale < _FAINTEST
    thumbnails -= thumbnails.mean(axis=1, keepdims=True)
    thumbnails /= np.maximum(deviation, 1e-6)
    return thumbnails, faint


def _hashes(likeness: Array) -> Array:
    """256 bits for each picture, shape (N, 16) of uint16, one number a band.

    The mean picture is taken off first: pictures of one kind (digits on black) are all alike, and would share most bits.
    """
    centred = likeness - likeness.mean(axis=0)
    directions = np.random.default_rng(0).normal(size=(SIDE * SIDE, _BITS)).astype(np.float32)
    bits = centred @ directions > 0
    return np.packbits(bits, axis=1).view(np.uint16)


def _candidates(hashes: Array) -> Ints:
    """Pairs (P, 2) of places whose hashes share a band and differ in few bits elsewhere."""
    words = np.ascontiguousarray(hashes).view(np.uint64)
    found = [np.zeros(0, dtype=np.int64)]
    count = len(hashes)
    for band in range(_BANDS):
        # Within a band the next band breaks ties, so that neighbours are alike there too where a band is crowded.
        order = np.lexsort((hashes[:, (band + 1) % _BANDS], hashes[:, band]))
        keys, sorted_words = hashes[order, band], words[order]
        for shift in range(1, min(_NEIGHBOURS, count - 1) + 1):
            same = np.flatnonzero(keys[shift:] == keys[:-shift])
            if not len(same):
                break
            apart = np.bitwise_count(sorted_words[same] ^ sorted_words[same + shift]).sum(axis=1)
            same = same[apart <= _MOST_BITS_APART]
            one, other = order[same], order[same + shift]
            found.append(np.minimum(one, other) * count + np.maximum(one, other))
    codes = np.unique(np.concatenate(found))
    return np.stack([codes // count, codes % count], axis=1)
