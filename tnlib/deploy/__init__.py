"""A network on its way out of Python: to ONNX, proved equal to torch, to int8, and into ONNX Runtime. Needs `deploy`.

Names of modules survive: a node is called after the module whose weight it has, as in `layer1.0.conv1/Conv_7`.
"""

try:
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401  # torch's exporter needs it
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"ONNX needs {missing.name}, which is not installed: pip install 'tnlib[deploy]'", name=missing.name
    ) from None

from tnlib.deploy.balance import balance
from tnlib.deploy.export import LANES, Exported, ParityError, export
from tnlib.deploy.int8 import Quantized, quantize
from tnlib.deploy.loader import write_loader
from tnlib.deploy.session import accuracy, hits, outputs, session

__all__ = [
    "LANES",
    "Exported",
    "ParityError",
    "Quantized",
    "accuracy",
    "balance",
    "export",
    "hits",
    "outputs",
    "quantize",
    "session",
    "write_loader",
]
