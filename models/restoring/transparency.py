"""Colours where nothing is seen: kept from leaking into what is.

A transparent pixel hides a colour, often black. Whatever mixes neighbours, a network or a resize, carries it into the
half transparent rim. So the image is filled from within before, and gets back what it hid afterwards.
"""

import cv2
import numpy as np

REACH = 64
"""Low-quality pixels around what is seen that are filled; colours hidden farther away are restored as they are."""


def filled_from_within(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return an image (h, w, 3) whose transparent pixels have the colour of the nearest one that is seen.

    Pixels farther than `REACH` from all that is seen (alpha (h, w) above 0) keep theirs. The image itself stays.
    """
    if not alpha.any() or alpha.all():
        return image
    distance, labels = cv2.distanceTransformWithLabels(
        (alpha == 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    seen, near = np.flatnonzero(alpha), np.flatnonzero((alpha == 0) & (distance <= REACH))
    place = np.zeros(labels.max() + 1, np.int64)
    place[labels.ravel()[seen]] = seen  # each pixel that is seen has a label of its own
    result = image.reshape(-1, image.shape[2]).copy()
    result[near] = result[place[labels.ravel()[near]]]
    return result.reshape(image.shape)


def put_back_hidden(result: np.ndarray, image: np.ndarray, filled: np.ndarray, alpha: np.ndarray) -> None:
    """Give a result (H, W, 2 or 4) the colours that were filled over, in place, wherever it is wholly transparent.

    The pixels of `image` (h, w, 3) are repeated, so that at scale 1 each comes back as it was.
    """
    if filled is image:
        return
    columns = np.arange(result.shape[1]) * image.shape[1] // result.shape[1]
    for row, out in enumerate(result):
        source = row * image.shape[0] // result.shape[0]
        hidden = (out[:, -1] == 0) & (alpha[source] == 0)[columns]
        hidden &= (filled[source] != image[source]).any(1)[columns]
        out[hidden, :-1] = image[source, columns[hidden], : out.shape[1] - 1]
