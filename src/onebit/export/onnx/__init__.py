"""ONNX files of packed nets: weights of one bit each for stock onnxruntime, plain floats, or QONNX.

`target` is what `onebit.export` calls. `graph` collects nodes and constants and knows in which forms a value is there,
`exactness` where bits matter, and the modules of operations write the nodes.
"""
