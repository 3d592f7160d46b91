"""The method: arrays, objectives, updates, noise, the step, and the settings of a run."""
