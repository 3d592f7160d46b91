"""Choose steps, step size, noise, objective and update on a small subset, by FID: what `jboost tune` does.

grid.py says what is tried, runs.py tries it, choice.py decides, marks.py remembers which references were used up.
"""
