"""All evaluations of a model, as answers to a few questions."""
