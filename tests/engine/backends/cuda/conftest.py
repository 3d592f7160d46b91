from __future__ import annotations

import pytest
from host_device import PROBES, HostDevice, compile_emulator


@pytest.fixture(scope="session")
def emulator(tmp_path_factory):
    """kernels.cu, compiled for the host."""
    return compile_emulator(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="session", params=["host", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """The kernels on the host, and on the first CUDA device."""
    if request.param == "host":
        yield HostDevice(request.getfixturevalue("emulator"), order=3)
        return
    from jboost.engine.backends.cuda import kernels
    from jboost.engine.backends.cuda.pycuda_device import open_device

    opened = open_device()
    opened.load(kernels.source() + PROBES)
    yield opened
    opened.close()
