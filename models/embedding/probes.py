"""What can be read from features of images that were each changed in the same ways: by neighbours, by linear probes.

Features are (N, K, d): of N images, each changed in the same K ways, d numbers. Probes are tested on other images than
they learn from. Of each number the best over `PENALTIES` counts, for all features alike.
"""

from collections.abc import Iterator

import numpy as np

FOLDS = 5
PENALTIES = tuple(10.0**power for power in range(-3, 3))
"""Of ridge regression, beside features of variance 1."""


def standardised(features: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Shift and scale so that every number of `like` has mean 0 and variance 1, unless it is constant."""
    flat = like.reshape(-1, like.shape[-1])
    deviation = flat.std(0)
    return (features - flat.mean(0)) / np.where(deviation > 1e-9, deviation, 1)


def splits(features: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Return (training part, test part) by image, each image tested once; standardised by the training part."""
    fold = np.arange(len(features)) % FOLDS
    for number in range(min(FOLDS, len(features))):
        train, test = features[fold != number], features[fold == number]
        yield standardised(train, train), standardised(test, train)


def ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """Return (xᵀx / n + penalty·I)⁻¹ y for x (n, d) and y (d, t)."""
    return np.linalg.solve(x.T @ x / len(x) + penalty * np.eye(x.shape[1]), y)


def retrieval(features: np.ndarray) -> float:
    """Return mean precision of the N - 1 nearest samples of other images: the share that is changed as the query is."""
    count, kinds, size = features.shape
    flat = standardised(features, features).reshape(-1, size)
    image, kind = np.divmod(np.arange(len(flat)), kinds)
    squares = (flat**2).sum(1)
    distance = squares[:, None] + squares - 2 * flat @ flat.T
    distance[image[:, None] == image] = np.inf
    nearest = np.argsort(distance, axis=1, kind="stable")[:, : count - 1]
    return float((kind[nearest] == kind[:, None]).mean())


def probe_accuracy(features: np.ndarray) -> float:
    """Return how often a linear probe tells which change samples of unseen images went through.

    The probe is the linear discriminant: Gaussian classes of one covariance, to which the penalty is added (Hastie et
    al., The Elements of Statistical Learning, section 4.3).
    """

    def accuracy(penalty: float) -> float:
        hits = []
        for train, test in splits(features):
            means = train.mean(0)
            within = (train - means).reshape(-1, train.shape[-1])
            weights = ridge(within, means.T, penalty)
            score = test @ weights - (means.T * weights).sum(0) / 2
            hits.append(score.argmax(-1) == np.arange(train.shape[1]))
        return float(np.concatenate(hits).mean())

    return max(accuracy(penalty) for penalty in PENALTIES)


def explained(features: np.ndarray, targets: np.ndarray) -> float | None:
    """Return R² of ridge regression of the changes' `targets` (K, t) on samples of unseen images, under changes that it
    has learnt from. None where these do not differ in the targets."""
    if len(targets) == 0 or np.ptp(targets, axis=0).max() < 1e-6:
        return None
    centred = targets - targets.mean(0)

    def share(penalty: float) -> float:
        error = 0.0
        for train, test in splits(features):
            x, y = train.reshape(-1, train.shape[-1]), np.tile(centred, (len(train), 1))
            error += float(((test @ ridge(x, x.T @ y / len(x), penalty) - centred) ** 2).sum())
        return 1 - error / float(len(features) * (centred**2).sum())

    return max(share(penalty) for penalty in PENALTIES)


def projection(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first two principal components (N·K, 2) of standardised features, and each one's share of variance."""
    flat = standardised(features, features).reshape(-1, features.shape[-1])
    left, values, right = np.linalg.svd(flat, full_matrices=False)
    largest = np.take_along_axis(right, np.abs(right).argmax(1)[:, None], 1)[:, 0]  # a sign that is always the same
    shares = values**2 / max(float((values**2).sum()), 1e-12)
    return (left * values * np.where(largest < 0, -1, 1))[:, :2], shares[:2]
