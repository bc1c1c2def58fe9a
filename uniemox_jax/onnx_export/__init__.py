"""The export to ONNX: it is written, compared with our own outputs, and made smaller and faster in 8 bits."""
