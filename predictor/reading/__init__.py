"""From the bytes of an ONNX file to a `ModelGraph`: parsing, shapes, values, control flow."""
