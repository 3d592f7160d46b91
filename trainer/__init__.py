"""jboost.trainer: model definitions, attacks and adversarial training of the joint model."""
