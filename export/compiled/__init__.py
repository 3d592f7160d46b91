"""Write the packages that `jboost.engine.backends.compiled` loads."""
