"""`tam-edge live`: a camera that is asked in a browser, or at a terminal. Read these files in this order:

1. `sight.py`        what is looked at: the device's source, or the webcam of one visitor at a time (`visitor.py`)
2. `pictures.py`     JPEGs, as they come from a visitor and as they go to the page
3. `asking.py`       a question of the page -> what it is told
4. `routes.py`       what the page calls, and the page itself (`page/`, `assets.py`)
5. `serving.py`      all of these behind the guard, until Ctrl-C (`certificate.py`)
6. `terminal.py`     the same conversation without a browser
7. `command.py`      options

`limits.py` is every limit. What servers share is in `apps/web`.
"""
