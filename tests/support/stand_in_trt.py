"""A TensorRT whose engines are the bundle's ONNX graphs in ONNX Runtime, on the memory of a `HostDevice`."""

from __future__ import annotations

import hashlib
import importlib.machinery
import types
from enum import Enum

import numpy as np
import onnxruntime as ort

NUMPY = {"FLOAT": np.float32, "INT64": np.int64}


class Severity(Enum):
    INTERNAL_ERROR, ERROR, WARNING = range(3)


class ILogger:
    Severity = Severity


class DataType(Enum):
    FLOAT, HALF, INT64, INT32 = range(4)


class TensorIOMode(Enum):
    INPUT, OUTPUT = range(2)


class TensorLocation(Enum):
    DEVICE, HOST = range(2)


class TensorFormat(Enum):
    LINEAR, HWC8 = range(2)


class Engine:
    """What goes in and out is in `tensors`: name -> [mode, dtype, shape, location, format]; `session` computes it."""

    def __init__(self, world, session, batch):
        self.world, self.session, self.tensors, self.contexts = world, session, {}, []
        for mode, values in ((TensorIOMode.INPUT, session.get_inputs()), (TensorIOMode.OUTPUT, session.get_outputs())):
            for value in values:
                dtype = DataType.INT64 if "int64" in value.type else DataType.FLOAT
                shape = (batch, *value.shape[1:])
                self.tensors[value.name] = [mode, dtype, shape, TensorLocation.DEVICE, TensorFormat.LINEAR]

    @property
    def num_io_tensors(self):
        return len(self.tensors)

    def get_tensor_name(self, index):
        return list(self.tensors)[index]

    def get_tensor_mode(self, name):
        return self.tensors[name][0]

    def get_tensor_dtype(self, name):
        return self.tensors[name][1]

    def get_tensor_shape(self, name):
        return self.tensors[name][2]

    def get_tensor_location(self, name):
        return self.tensors[name][3]

    def get_tensor_format(self, name):
        return self.tensors[name][4]

    def create_runtime_config(self):
        return types.SimpleNamespace(create_runtime_cache=lambda: RuntimeCache(), set_runtime_cache=lambda cache: True)

    def create_execution_context(self, runtime_config=None):
        self.contexts.append(Context(self))
        return self.contexts[-1]


class RuntimeCache:
    valid = b"kernels of this GPU"

    def deserialize(self, content):
        return content == self.valid

    def serialize(self):
        return self.valid


class Context:
    def __init__(self, engine):
        self.engine, self.addresses, self.shapes = engine, {}, {}
        self.runs = 0

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape
        return shape[0] <= self.engine.world.largest_batch

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return name in self.engine.tensors and address % 256 == 0

    def is_stream_capturable(self, stream):
        return self.engine.world.capturable

    def execute_async_v3(self, stream):
        device, at, engine = self.engine.world.device, dict(self.addresses), self.engine
        batch = engine.world.batch

        def array(name):
            _, dtype, shape, *_ = engine.tensors[name]
            return device.view(at[name], NUMPY[dtype.name], (batch, *shape[1:]))

        def work():
            self.runs += 1
            names = [output.name for output in engine.session.get_outputs()]
            for name, output in zip(names, engine.session.run(names, {"x": array("x"), "y": array("y")}), strict=True):
                array(name)[:] = engine.world.spoil(name, output, self)

        device.queue(stream, work)
        return True


class World:
    """What a test sets: the device, and the ONNX graph behind each plan, by the plan's SHA-256."""

    def __init__(self, batch):
        self.device, self.batch, self.graphs = None, batch, {}
        self.capturable, self.largest_batch = True, batch
        self.spoil = lambda name, output, context: output
        self.engines = []
        self.dynamic = False

    def module(self, name, version):
        """The stand-in, as a module called `name`."""
        world = self

        class Runtime:
            def __init__(self, log):
                self.log = log

            def deserialize_cuda_engine(self, plan):
                graph = world.graphs.get(hashlib.sha256(plan).hexdigest())
                if graph is None:
                    self.log.log(Severity.ERROR, "Error Code 1: Serialization\n(magic tag does not match)")
                    self.log.log(Severity.ERROR, "a consequence")
                    return None
                session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
                world.engines.append(Engine(world, session, -1 if world.dynamic else world.batch))
                return world.engines[-1]

        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__version__ = version
        for part in (ILogger, DataType, TensorIOMode, TensorLocation, TensorFormat, Runtime):
            setattr(module, part.__name__, part)
        module.IRuntimeCache = RuntimeCache
        module.DynamicShapesKernelSpecializationStrategy = types.SimpleNamespace(EAGER="eager")
        module.ComputeCapability = types.SimpleNamespace(__members__={"SM86": 1, "SM120": 2})
        return module
