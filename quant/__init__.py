"""Smaller engines: int8 and int4 ONNX graphs, GGUF types, calibration, and what each step costs in accuracy.

Empty in this release: a bundle holds the precisions that ``tam_edge.export`` writes itself.
"""
