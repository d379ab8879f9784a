"""`tam-edge robot`: a Zenoh node that looks at a camera topic and answers. Read these files in this order:

1. `cdr.py`       the bytes of a ROS 2 message -> its fields
2. `picture.py`   the bytes of any message -> one RGB frame
3. `topic.py`     a topic -> a live source
4. `asking.py`    queries -> answers as JSON, in a bounded line
5. `node.py`      the session's life: all of these and the rules of `tam-edge watch`
6. `command.py`   options
"""
