"""The training recipe of the bundled model, one stage a file."""
