"""jboost.export: turn a checkpoint into a verified bundle."""
