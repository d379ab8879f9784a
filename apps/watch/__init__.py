"""`tam-edge watch`: standing yes/no rules about a live source. Read these files in this order:

1. `verdict.py`   a question that can be a rule; an answer -> yes, no or unknown
2. `firing.py`    verdicts -> does the rule fire? (pure)
3. `pace.py`      when the next check is due: by the clock, or by the stream's own time
4. `watcher.py`   the calls above, in this order: checks -> events
5. `evidence.py`  the frames of an event -> files (`webhook.py`: events -> a URL)
6. `command.py`   options (`recorded.py`: a file, faster than it plays)

`tam-edge robot` checks its rules with the first four.
"""
