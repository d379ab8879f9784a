"""How often a bundle answers rightly, and what each of its parts is worth: `tam-edge eval synthetic`.

Reading order: films (unseen scenes as files), reencode (the same files from other cameras), arms (who is asked, with
derive, experts and projectors for what is changed in a bundle), ask (replies), intervals, summary, comparison, sweep,
report; then table, figures and cli, which show it. Ablations need the `export` extra, figures the `figures` extra,
nothing else needs more than the runtime.
"""
