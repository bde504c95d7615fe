"""Templates: where they come from when motion is generated (`sources`)."""
