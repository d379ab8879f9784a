"""tam-edge's runtime: a question about a video -> a plan -> an answer, inside a memory ceiling.

Everything that runs on the device, one file per stage. Read these files in this order:

1. `inductor.py`   question -> `TaskEstimate`
2. `plan.py`       task, clip and limits -> `Plan` (its rules: `routing.py`; what was seen before: `preference.py`)
3. `video.py`      source and times -> `FrameBatch` (`frames.py`, `decode.py`)
4. `vision.py`     frames -> `PatchFeatures`
5. `strategies/`   patch features -> `VisualTokens`; `view.py` runs 3 to 5
6. `prompt.py`     texts, plan and question -> `Prompt` (with earlier turns: `history.py`)
7. `language.py`   prompt and visual tokens -> text, piece by piece
8. `live/`        frames of a camera, looked at as they come, and kept (`kept.py` has what questions leave)
9. `session.py`    `VideoQA`: the calls above, in this order

Around them: `errors.py`, `manifest.py` and `bundle.py` (what the device was given), `device.py`, `budget.py` and
`footprint.py` (what it has and what is needed), `costs.py` (how long that takes, by what `calibrate/` has measured),
`engines/` (what runs a file), `parts.py` (what is open), `admission.py`, `ceiling.py` and `deadline.py` (what gives way
below a ceiling and before a deadline), `answer.py` and `stream.py`.
"""

from tam_edge.runtime.answer import Answer, Evidence, Timings
from tam_edge.runtime.budget import MemoryLimit, parse_size
from tam_edge.runtime.bundle import Bundle, default_bundle_path, load_bundle
from tam_edge.runtime.device import DeviceProfile, probe_device
from tam_edge.runtime.errors import (
    BundleError,
    BusyError,
    DeadlineError,
    EngineError,
    MemoryLimitError,
    MissingExtraError,
    QuestionError,
    TamEdgeError,
    TooLargeError,
    UsageError,
    VideoError,
)
from tam_edge.runtime.inductor import TaskEstimate
from tam_edge.runtime.live.answers import LiveAnswer, LiveEvidence, LiveStream
from tam_edge.runtime.live.events import LiveEvent, LiveStatus
from tam_edge.runtime.live.pictures import LivePicture
from tam_edge.runtime.live.session import Live
from tam_edge.runtime.plan import Limits, Plan, Rejection, make_plan
from tam_edge.runtime.session import VideoQA
from tam_edge.runtime.stream import AnswerStream
from tam_edge.runtime.video import FrameBatch, FramesInMemory, Video, VideoInfo, open_video

__all__ = [
    "Answer",
    "AnswerStream",
    "Bundle",
    "BundleError",
    "BusyError",
    "DeadlineError",
    "DeviceProfile",
    "EngineError",
    "Evidence",
    "FrameBatch",
    "FramesInMemory",
    "Limits",
    "Live",
    "LiveAnswer",
    "LiveEvent",
    "LiveEvidence",
    "LivePicture",
    "LiveStatus",
    "LiveStream",
    "MemoryLimit",
    "MemoryLimitError",
    "MissingExtraError",
    "Plan",
    "QuestionError",
    "Rejection",
    "TamEdgeError",
    "TaskEstimate",
    "Timings",
    "TooLargeError",
    "UsageError",
    "Video",
    "VideoError",
    "VideoInfo",
    "VideoQA",
    "default_bundle_path",
    "load_bundle",
    "make_plan",
    "open_video",
    "parse_size",
    "probe_device",
]
