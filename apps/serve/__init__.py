"""`tam-edge serve`: the runtime behind OpenAI's chat API. Read these files in this order:

1. `schema.py`     what a request and a reply look like
2. `reading.py`    messages -> pictures and videos, question, history
3. `sources.py`    what may be looked at and from where (`store.py`, `download.py`, `../addresses.py`)
4. `work.py`       what is asked, and what becomes of it (`abandon.py`: frames stop too)
5. `replies.py`    answers -> OpenAI's objects and server-sent events
6. `service.py`    all of these, put together
7. `routes.py`     the calls above, in this order
8. `command.py`    options, and the server's life

`limits.py` is every limit, `metrics.py` what Prometheus reads. Who may ask, refusals and the server's life are in
`apps/web`, for the live page needs them too.
"""
