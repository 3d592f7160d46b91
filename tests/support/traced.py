"""Runs a jboost command and prints, as JSON, the source files of which a function ran: python traced.py ARGUMENTS..."""

from __future__ import annotations

import inspect
import json
import sys
import threading

from jboost.cli.main import main

seen: set[str] = set()


def note(frame, event, argument) -> None:
    # Functions and methods alone: modules, and bodies of classes, run whenever something is imported.
    if event == "call" and frame.f_code.co_flags & inspect.CO_OPTIMIZED and frame.f_code.co_name[0] != "<":
        seen.add(frame.f_code.co_filename)


threading.setprofile(note)
sys.setprofile(note)
try:
    main(sys.argv[1:])
except SystemExit as done:
    sys.setprofile(None)
    print(json.dumps(sorted(seen)))
    sys.exit(done.code)
