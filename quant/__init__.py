"""Smaller bundles and what they lose: `tam-edge quantize`.

Reading order: request, samples (calibration data), chain and baseline (the original, stage by stage); rounding (number
formats), graph_file, graph, experts, dense, rewrite (ONNX graphs), layers, keep, encoder (error layer by layer, and
which get more bits); imatrix and language (GGUF); parts, target, candidates; place (all or nothing, for `export` too),
bundle, speed, agreement; then quantise, which joins them, picture, report and cli, which show it. counted is memory
that takes too long to measure, remeasure is for bundles made before that was done; onnx_int8 is the Inductor's own.
"""
