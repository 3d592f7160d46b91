"""What ``--arch`` takes, for messages of commands that have not imported torch yet."""

from __future__ import annotations

#: Besides jboost's own architectures.
OTHERS = "timm:NAME, torchvision:NAME, hf-hub:ORG/NAME, package.module:factory or file.py:factory"
