"""jboost.engine runs the loops. It needs numpy and one backend; it does not import training or export."""
