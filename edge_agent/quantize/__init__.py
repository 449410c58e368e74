"""``edge-agent model quantize``: static INT8 for ONNX detectors, as fast as the target for accuracy allows. An extra.

Nothing on the line imports this. Read in this order: ``run`` (the whole), ``graph`` (the float model made ready), ``ranges``
(calibration), ``insertion`` (QuantizeLinear and DequantizeLinear), ``accuracy`` (what it cost), ``simulation`` (which tensor
costs it), ``search`` (what stays in float), ``result`` (the table, and the file).
"""
