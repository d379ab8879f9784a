"""`tam-edge serve`: the runtime behind OpenAI's chat API. Read these files in this order:

1. `guard.py`      who may ask: Host, Origin, token, and how large a body is (also what a live page stands behind)
2. `schema.py`     what a request and a reply look like
3. `reading.py`    messages -> pictures and videos, question, history
4. `sources.py`    what may be looked at and from where (`store.py`, `download.py`, `addresses.py`)
5. `work.py`       the queue, and the one thread that answers (`abandon.py`: how it stops)
6. `replies.py`    answers -> OpenAI's objects and server-sent events
7. `service.py`    all of these, put together
8. `routes.py`     the calls above, in this order
9. `command.py`    options, and the server's life (`listening.py`)

`problem.py` is every refusal, `limits.py` every limit, `metrics.py` what Prometheus reads.
"""
