"""ONNX files of packed nets: weights of one bit each for stock onnxruntime, plain floats, or QONNX.

`target` is the entry. `graph` collects nodes and constants, `exactness` finds the values whose bits matter, and the
other modules write the nodes of operations.
"""
