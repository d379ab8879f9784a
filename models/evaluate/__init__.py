"""How often a bundle answers rightly, and what each of its parts is worth: `tam-edge eval synthetic`.

Reading order: films (unseen scenes as files), reencode (the same files from other cameras), arms (who is asked, with
pipeline for other rules, and derive, experts, projectors and ablate for what is changed in a bundle), ask (replies),
intervals, summary, comparison, sweep, report; then table, figures and cli, which show it. Ablations need the `export`
extra, figures the `figures` extra, nothing else needs more than the runtime.
"""
