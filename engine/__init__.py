"""jboost.engine: runs the loops. Knows numpy and one backend; knows no training and no export."""
