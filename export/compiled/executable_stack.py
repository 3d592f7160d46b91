"""Take from a compiled package the wish for an executable stack, with which newer systems refuse to load it.

The assembler marks a library as needing an executable stack if one of its parts does not say that it needs none. AOTInductor writes
the weights as assembly that says nothing (torch 2.11 and 2.13). glibc 2.41 and newer (Debian 13, Fedora 42) do not load such a
library into a running program; older ones make every thread's stack executable. No code of a package runs on the stack.
"""

from __future__ import annotations

import struct

_ELF_64_LITTLE_ENDIAN = b"\x7fELF\x02\x01"
_PT_GNU_STACK, _EXECUTABLE = 0x6474E551, 1


def without_executable_stack(library: bytes) -> bytes | bytearray:
    """Return an ELF library whose program header asks for a stack that is not executable; other files as they are."""
    if not library.startswith(_ELF_64_LITTLE_ENDIAN):
        return library
    content = bytearray(library)
    (table,) = struct.unpack_from("<Q", content, 32)
    size, count = struct.unpack_from("<HH", content, 54)
    for header in range(table, table + size * count, size):
        kind, flags = struct.unpack_from("<II", content, header)
        if kind == _PT_GNU_STACK:
            struct.pack_into("<I", content, header + 4, flags & ~_EXECUTABLE)
    return content  # no further copy: a library holds the weights
