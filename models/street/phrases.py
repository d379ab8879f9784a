"""How people ask: several phrasings a family, and the words the answers are made of. Data only.

`{who}` is a person ("the person in red"), `{thing}` anything that can be named, `{event}` something that happens.
"""

from __future__ import annotations

TASK_OF_FAMILY: dict[str, int] = {
    "count": 1,
    "count at once": 1,
    "count at the end": 1,
    "car colour": 1,
    "held": 1,
    "weather": 1,
    "exists": 1,
    "action": 2,
    "action then": 2,
    "dog action": 2,
    "who does": 2,
    "is doing": 2,
    "arms": 3,
    "mood": 3,
    "mouth": 3,
    "is mood": 3,
    "first": 4,
    "last": 4,
    "after": 4,
    "before": 4,
    "light changes": 4,
    "order": 4,
    "where": 5,
    "neighbour": 5,
    "gaze": 5,
    "is left": 5,
    "summary": 6,
    "title": 6,
    "development": 6,
    "setting": 6,
    "why stopped": 7,
    "job": 7,
    "advice": 7,
    "view": 7,
    "is safe": 7,
    "sign word": 8,
    "sign number": 8,
    "sign": 8,
    "car code": 8,
}

YES_NO = ("exists", "is doing", "is mood", "order", "is left", "is safe")

PHRASES: dict[str, tuple[str, ...]] = {
    "count": (
        "how many people?",
        "how many people are there?",
        "how many different people can be seen?",
        "how many people are in the video?",
        "count the people",
        "what is the number of people in the clip?",
    ),
    "count at once": (
        "how many people are there at once at most?",
        "what is the largest number of people at the same time?",
        "how many people are in view at once at most?",
        "at most, how many people are there together?",
    ),
    "count at the end": (
        "how many people are there at the end?",
        "how many people are left at the end?",
        "at the end of the clip, how many people are in view?",
        "count the people in the last moment",
    ),
    "car colour": (
        "what colour is the car?",
        "what color is the car?",
        "which colour does the car have?",
        "tell me the colour of the car",
    ),
    "held": (
        "what does {who} hold?",
        "what is {who} holding?",
        "what does {who} have in the hand?",
        "what is {who} carrying?",
        "which object does {who} carry?",
    ),
    "weather": (
        "what is the weather like?",
        "how is the weather?",
        "what kind of weather is it?",
        "describe the weather",
    ),
    "exists": (
        "is there {thing}?",
        "is there {thing} in the video?",
        "do you see {thing}?",
        "can you see {thing} anywhere?",
    ),
    "action": (
        "what is {who} doing?",
        "what does {who} do?",
        "which activity is {who} busy with?",
        "tell me what {who} is doing",
    ),
    "action then": (
        "what does {who} do in the end?",
        "what is {who} doing at the end?",
        "what does {who} do later on?",
        "what does {who} do after {doing}?",
    ),
    "dog action": (
        "what is the dog doing?",
        "what does the dog do?",
        "tell me what the dog is doing",
        "what is the dog up to?",
    ),
    "who does": (
        "who is {doing}?",
        "which person is {doing}?",
        "who can be seen {doing}?",
        "somebody is {doing}, who?",
    ),
    "is doing": ("is {who} {doing}?", "can {who} be seen {doing}?", "is it true that {who} is {doing}?"),
    "arms": (
        "how does {who} hold the arms?",
        "what is the pose of {who}'s arms?",
        "how are the arms of {who} posed?",
        "describe the arm pose of {who}",
    ),
    "mood": (
        "what is the mood of the person close to the camera?",
        "how does the person near the camera feel?",
        "which emotion shows on the face in front?",
        "what expression does the face close to us have?",
    ),
    "mouth": (
        "what is the mouth of the person near the camera like?",
        "what does the mouth of the face in front look like?",
        "describe the mouth of the person close to the camera",
        "how is the mouth of the face close to us shaped?",
    ),
    "is mood": (
        "does the person close to the camera look {mood}?",
        "is the face in front {mood}?",
        "does the face near the camera seem {mood}?",
    ),
    "first": (
        "what happens first?",
        "what is the first thing that happens?",
        "which event comes first?",
        "what happens at the very beginning?",
    ),
    "last": (
        "what happens last?",
        "what is the last thing that happens?",
        "which event comes last?",
        "what happens at the very end?",
    ),
    "after": (
        "what happens after {event}?",
        "what happens right after {event}?",
        "what is the next thing that happens after {event}?",
        "what comes next once {event}?",
    ),
    "before": ("what happens before {event}?", "what happens right before {event}?", "what comes just before {event}?"),
    "light changes": (
        "how many times does the brightness change?",
        "how often does the light change?",
        "how many times does it get dark or light?",
        "count how many times the light changes",
    ),
    "order": (
        "is it true that {event} before {other}?",
        "does it happen in this order: {event}, then {other}?",
        "first {event} and later {other}, right?",
    ),
    "where": (
        "where is {thing}?",
        "where can {thing} be found?",
        "where in the picture is {thing}?",
        "in which part of the frame is {thing}?",
    ),
    "neighbour": (
        "who is next to {who} on the {side}?",
        "who is just {side} of {who}?",
        "who stands to the {side} of {who}?",
    ),
    "gaze": (
        "where is the person close to the camera looking?",
        "in which direction does the face in front look?",
        "which way is the person near the camera looking?",
        "where do the eyes of the face close to us point?",
    ),
    "is left": (
        "is {thing} to the left of {other}?",
        "is {thing} left of {other}?",
        "seen from here, is {thing} on the left side of {other}?",
    ),
    "summary": (
        "summarize the video",
        "summarise the clip",
        "what is the video mainly about?",
        "give a short summary",
        "describe the video in one sentence",
    ),
    "title": (
        "what would be a good title?",
        "give the video a title",
        "which title fits the video?",
        "suggest a title for this clip",
    ),
    "development": (
        "how does the scene develop?",
        "what is the story of the video?",
        "how does the situation change overall?",
        "describe the overall development",
    ),
    "setting": (
        "what is the setting of the video?",
        "what is the overall setting?",
        "which setting does the video present?",
        "name the general setting of this video",
    ),
    "why stopped": (
        "why did the car stop?",
        "why is the car not moving?",
        "what is the reason that the car stands still?",
        "why can't the car go on?",
    ),
    "job": (
        "what is the job of {who}, most likely?",
        "what does {who} probably do for a living?",
        "what is the likely role of {who}?",
        "what might {who} be by profession?",
    ),
    "advice": (
        "what should the driver do now?",
        "what would you advise the driver?",
        "how should the driver deal with the situation?",
        "what is the best thing for the driver to do?",
    ),
    "view": (
        "why is it hard to see?",
        "what makes it hard to see?",
        "why is the view poor?",
        "what is the reason for the poor view?",
    ),
    "is safe": (
        "is it safe for the car to drive on?",
        "could the car drive on safely?",
        "can the driver go on without danger?",
    ),
    "sign word": (
        "what word is on the sign?",
        "what does the sign say?",
        "which word is written on the sign?",
        "read the word on the sign",
    ),
    "sign number": (
        "what number is on the sign?",
        "which number does the sign show?",
        "read the number on the sign",
        "what digits are on the sign?",
    ),
    "sign": (
        "read the whole sign",
        "what is written on the sign, word and number?",
        "read everything on the sign",
        "give the full text of the sign",
    ),
    "car code": (
        "what is written on {thing}?",
        "what does the plate of {thing} say?",
        "read the code on {thing}",
        "which code is on {thing}?",
    ),
}

ARMS_ANSWER = {
    "raised": "raised",
    "crossed": "crossed",
    "stretched": "stretched out",
    "hips": "on the hips",
    "behind": "behind the back",
    "hanging": "hanging down",
}
HELD_ANSWER = {
    "umbrella": "an umbrella",
    "bag": "a bag",
    "ball": "a ball",
    "flag": "a flag",
    "balloon": "a balloon",
    "box": "a box",
    "guitar": "a guitar",
}
MOUTH_ANSWER = {
    "happy": "smiling",
    "sad": "turned down",
    "angry": "showing teeth",
    "surprised": "wide open",
    "sleepy": "yawning",
    "bored": "a straight line",
}
GAZE_ANSWER = {
    "left": "to the left",
    "right": "to the right",
    "up": "up",
    "down": "down",
    "camera": "at the camera",
    "closed": "nowhere, the eyes are closed",
}
STOPPED_ANSWER = {
    "light": "the light is red",
    "cone": "there are road works",
    "log": "a log lies on the road",
    "stone": "a stone lies on the road",
    "barrier": "the barrier is down",
    "puddle": "the road is flooded",
}
ADVICE_ANSWER = {
    "light": "wait for green",
    "cone": "drive slowly past the works",
    "log": "call somebody to move the log",
    "stone": "drive around the stone",
    "barrier": "wait until the barrier opens",
    "puddle": "turn around",
}
JOB_ANSWER = {
    "sweeping": "street cleaner",
    "digging": "builder",
    "guitar": "musician",
    "flag": "tour guide",
    "box": "courier",
    "balloon": "balloon seller",
    "dancing": "dancer",
    "running": "athlete",
    "ball": "footballer",
}
VIEW_ANSWER = {"rainy": "the rain", "snowy": "the snow", "foggy": "the fog", "stormy": "the storm"}
