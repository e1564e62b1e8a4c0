"""Helper package of the Tensor Compression Workbook: from a weight to its factors, to layers, to whole networks.

`decompose`: matrices and tensors in, factors out. `layers`: drop-in torch modules on those factors. `measure`: what a
network costs. `deploy`: ONNX and int8. `data`, `models`, `train`, `plots`: what the notebooks run on. `check`: the
exercises. `study`: re-runs, records, command line. Importing `tnlib` imports none of them.
"""

__version__ = "0.1.0"
