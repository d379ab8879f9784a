"""The street camera: a synthetic world that can be filmed and asked about. numpy and OpenCV only.

Reading order: world (what there is), layout (where it stands), render (backdrop, figures, people, faces), labels
(what each patch shows), questions (with phrases), score, video.
"""

from tam_edge.models.street.question import Question
from tam_edge.models.street.questions import questions
from tam_edge.models.street.render import render
from tam_edge.models.street.score import score
from tam_edge.models.street.world import Scene, make_scene

__all__ = ["Question", "Scene", "make_scene", "questions", "render", "score"]
