"""jboost.export: from a checkpoint to a verified bundle."""
