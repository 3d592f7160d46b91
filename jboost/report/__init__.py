"""Write a finished run as one self-contained HTML page.

from jboost.report import write_report

write_report("run.npz", "report.html")
"""

from __future__ import annotations

from .write import write_report

__all__ = ["write_report"]
