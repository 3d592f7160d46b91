"""A device whose memory is the host's, whose kernels are the same source compiled by g++, and whose streams may run as late, and in
as adverse an order, as events allow."""

from __future__ import annotations

import ctypes
import gc
import random
import shutil
import subprocess
from collections import deque
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import pytest

from jboost.engine.backends.cuda import kernels
from jboost.engine.backends.cuda.device import OutOfDeviceMemoryError

HERE = Path(__file__).parent
PROBES = (HERE / "probes.cu").read_text()


def compile_emulator(folder: Path) -> ctypes.CDLL:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    source, library = folder / "kernels.cu", folder / "kernels.so"
    source.write_text(kernels.source() + PROBES)
    options = ["-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command = [compiler, *options, f'-DKERNELS="{source}"', str(HERE / "block_emulator.cpp"), "-o", str(library)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


class HostDevice:
    """See `jboost.engine.backends.cuda.device.Device`.

    Args:
        emulator: what `compile_emulator` made.
        threads: of a block.
        order: of a block's threads between barriers: 0 ascending, 1 descending, else a shuffle's seed.
        schedule: ``"eager"``: work is done when it is queued. ``"lazy"``: when the host waits for it, and no sooner. ``"others"``:
            the same, but every other stream runs ahead as far as it can. An integer: streams take turns at random, with this seed.
        memory: bytes.
    """

    name, compute_capability = "host", (0, 0)

    def __init__(self, emulator, *, threads=8, order=0, schedule="eager", memory=1 << 30):
        self._launch, self.threads, self.order, self.schedule = emulator.launch, threads, order, schedule
        self.total_memory, self.streams = memory, []
        self.buffers: WeakValueDictionary[int, Buffer] = WeakValueDictionary()
        self._pinned: list[tuple[int, int]] = []
        self._keep: list[np.ndarray] = []
        self._random = random.Random(schedule) if isinstance(schedule, int) else None
        self.recording: list | None = None
        self.kernels = self.graphs = 0
        self.closed = False

    # Memory.
    def free_memory(self):
        return self.total_memory - sum(b.nbytes for b in self.buffers.values())

    def allocate(self, nbytes):
        if nbytes > self.free_memory():
            raise OutOfDeviceMemoryError(nbytes, self.free_memory())
        buffer = Buffer(self, nbytes)
        self.buffers[buffer.address] = buffer
        return buffer

    def pinned(self, nbytes):
        array = np.full(nbytes, 0xAB, np.uint8)
        self._pinned.append((array.ctypes.data, nbytes))
        self._keep.append(array)
        return array

    def _check(self, array, address):
        start = array.ctypes.data
        assert array.dtype == np.uint8
        assert any(p <= start and start + array.nbytes <= p + n for p, n in self._pinned), "not pinned"
        assert any(a <= address and address + array.nbytes <= a + b.nbytes for a, b in self.buffers.items()), "outside"

    def view(self, address, dtype, shape):
        """An array in the device's memory."""
        count = int(np.prod(shape))
        kind = ctypes.c_uint8 * (count * np.dtype(dtype).itemsize)
        return np.frombuffer(kind.from_address(address), dtype, count).reshape(shape)

    # Work.
    def stream(self):
        self.streams.append(Stream(self, len(self.streams) + 1))
        return self.streams[-1]

    def event(self):
        return Event(self)

    def queue(self, handle, work):
        """Queue `work()` on a stream: for networks."""
        self.streams[handle - 1].put(work)

    def upload(self, address, source, stream):
        self._check(source, address)
        stream.put(lambda: ctypes.memmove(address, source.ctypes.data, source.nbytes))

    def download(self, target, address, stream):
        self._check(target, address)
        stream.put(lambda: ctypes.memmove(target.ctypes.data, address, target.nbytes))

    def launch(self, kernel, blocks, words, stream):
        array = np.array([int(w) for w in words], np.uint64)

        def work():
            self.kernels += 1
            assert self.kernels < 50_000, "the run does not end"
            status = self._launch(
                kernel.encode(), ctypes.c_void_p(array.ctypes.data), len(array), blocks, self.threads, self.order
            )
            assert status == 0, (kernel, status)

        stream.put(work)

    def capture(self, stream, work):
        assert not stream.queue, "a stream must be idle when a capture begins"
        gc.disable()  # as on a real device: a buffer freed now would end the capture
        self.recording = []
        try:
            work()
        finally:
            recorded, self.recording = self.recording, None
            gc.enable()
        return Graph(self, recorded)

    def synchronize(self):
        assert self.recording is None
        for stream in self.streams:
            stream.synchronize()

    def close(self):
        self.closed = True

    # Scheduling.
    def run_until(self, reached, stream):
        """Let streams run until `reached()`, which work on `stream` brings about."""
        while not reached():
            if self._random is not None:
                self._random.choice(self.streams).advance()
                continue
            if self.schedule == "others":
                for other in self.streams:
                    while other is not stream and other.advance():
                        pass
            if not stream.advance():  # it waits for another stream: that one first
                waits = stream.queue[0]
                self.run_until(waits.ready, waits.stream)


class Buffer:
    def __init__(self, device, nbytes):
        self._device, self.nbytes = device, nbytes
        self._memory = np.zeros(nbytes + 256, np.uint8)
        self.address = -(-self._memory.ctypes.data // 256) * 256

    def free(self):
        self._device.synchronize()
        ctypes.memset(self.address, 0xCD, self.nbytes)  # whoever reads it now gets nonsense
        self._device.buffers.pop(self.address, None)
        self._device._keep.append(self._memory)
        self._memory = None

    def __del__(self):
        if self._memory is not None:
            self.free()


class Stream:
    def __init__(self, device, handle):
        self._device, self.handle, self.queue = device, handle, deque()

    def put(self, work):
        if self._device.recording is not None:
            self._device.recording.append(work)
            return
        self.queue.append(work)
        assert len(self.queue) < 50_000, "the host never waits"
        if self._device.schedule == "eager":
            self._device.synchronize()

    def advance(self):
        """Do the first thing in the queue; False if there is none, or it has to wait."""
        if not self.queue or (isinstance(self.queue[0], Wait) and not self.queue[0].ready()):
            return False
        self.queue.popleft()()
        return True

    def wait(self, event):
        assert self._device.recording is None
        if event.stream is not None:
            self.put(Wait(event, event.recorded, event.stream))

    def synchronize(self):
        assert self._device.recording is None
        self._device.run_until(lambda: not self.queue, self)


class Wait:
    """Lets its stream go on when `event` has been reached as often as it had been recorded."""

    def __init__(self, event, count, stream):
        self._event, self._count, self.stream = event, count, stream

    def ready(self):
        return self._event.reached >= self._count

    def __call__(self):
        pass


class Event:
    def __init__(self, device):
        self._device, self.stream = device, None
        self.recorded = self.reached = 0

    def record(self, stream):
        assert self._device.recording is None
        self.recorded, self.stream = self.recorded + 1, stream
        number = self.recorded

        def reach():
            self.reached = number

        stream.put(reach)

    def done(self):
        if self._device._random is not None:
            for _ in range(self._device._random.randrange(20)):
                self._device._random.choice(self._device.streams).advance()
        return self.reached == self.recorded

    def synchronize(self):
        number = self.recorded
        if self.stream is not None:
            self._device.run_until(lambda: self.reached >= number, self.stream)


class Graph:
    def __init__(self, device, recorded):
        self._device, self._recorded = device, recorded

    def launch(self, stream):
        self._device.graphs += 1
        for work in self._recorded:
            stream.put(work)


#: As adverse as it gets, each in its own way.
SCHEDULES = ("eager", "lazy", "others", 1, 2)
