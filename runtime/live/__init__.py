"""A live source and the questions about it, in constant memory. Read these files in this order:

1. `sources/`     a camera, an address, a pipeline, a file or a program -> frames
2. `reader.py`    frames -> the newest one, whatever happens to the source
3. `eye.py`       the newest frame -> patch features, while nobody waits
4. `window.py`    patch features and pictures, thinned as they grow old (`thinning.py`, `pictures.py`)
5. `moments.py`   "the last 30 s" -> a stretch of the window
6. `line.py`      questions wait here
7. `ready.py`     what most of them look at stands in the language model
8. `session.py`   `Live`: a question -> `answers.py`; `events.py` says how the session is

`inside.py` starts one, `room.py` predicts what memory it takes.
"""
