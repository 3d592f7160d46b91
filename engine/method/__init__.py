"""What a step is: arrays, objectives, updates, noise, the step itself, and the settings of a run."""
