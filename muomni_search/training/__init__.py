"""Training: a recipe and tables of examples in, a model directory out.

recipe.py     what a recipe says, checked
examples.py   tables → contents and teacher vectors on disk, ready to be drawn from
groups.py     which examples say the same, and which are kept aside with each other
towers.py     the network: sizes, and what it takes over from models that it goes on from
batches.py    which examples a step sees, and how they are altered
losses.py     what a step minimises
trainer.py    the steps, checkpoints and reports
result.py     the model directory: weights, configuration, curves, card
"""
