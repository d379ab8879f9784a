"""Black bars around a picture that was fitted into a screen of another shape: no part of what the camera saw.

An encoder squashes a frame to its square. With bars in it, everything is smaller and elsewhere than in any picture the
encoder was trained on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLACK = 24
"""No channel of a bar's pixel is brighter; compression leaves digital black at about 3."""
UNEQUAL = 0.02
"""Part of a side by which its two bars may differ: players and encoders round to whole blocks of colour."""
LEAST_LEFT = 0.25
"""Part of each side that is picture at least: a frame that is darker than that is dark, not framed."""


def without_bars(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture inside `frame` [H, W, 3] as a view of it; the frame itself where it has no bars.

    Bars lie on both sides of the picture: what is dark on one side only is part of the scene. Each frame is looked at
    by itself, so what is cached for it never depends on another one.
    """
    (above, below), (left, right) = _bars(frame), _bars(frame.transpose(1, 0, 2))
    height, width = frame.shape[0] - above - below, frame.shape[1] - left - right
    if min(height / frame.shape[0], width / frame.shape[1]) < LEAST_LEFT:
        return frame
    return frame[above : above + height, left : left + width]


def _bars(frame: NDArray[np.uint8]) -> tuple[int, int]:
    """Rows that are black at the top and at the bottom of `frame` [H, W, 3], about as many here as there."""
    if max(frame[0].max(), frame[-1].max()) > BLACK:  # nearly always, and much faster than looking at all of it
        return 0, 0
    bright = np.flatnonzero(frame.max((1, 2)) > BLACK)
    if not len(bright):
        return 0, 0
    above, below = int(bright[0]), len(frame) - 1 - int(bright[-1])
    if abs(above - below) <= UNEQUAL * len(frame):
        return above, below
    return min(above, below), min(above, below)  # such as with subtitles in one of them
