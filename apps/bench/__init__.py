"""What `tam-edge bench` measures: ours beside the libraries one would take instead, on clips made here."""
