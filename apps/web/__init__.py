"""What `tam-edge serve` and the live page share.

1. `guard.py`      who may ask: Host, Origin and token (`token.py`)
2. `body.py`       how large a body is, and how many of them there are at once
3. `problem.py`    every refusal: a status and one line (`mistake.py`)
4. `patience.py`   whether somebody still waits, and what they are told from another thread
5. `worker.py`     the queue, and the one thread that answers
6. `streams.py`    server-sent events
7. `listening.py`  the server's life
"""
