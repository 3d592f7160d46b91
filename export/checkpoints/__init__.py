"""From whatever checkpoint a user has to a joint model."""
