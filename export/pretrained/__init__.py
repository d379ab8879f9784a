"""Public checkpoints (LLaVA-OneVision, LLaVA-Video, and what is built like them) become bundles."""
