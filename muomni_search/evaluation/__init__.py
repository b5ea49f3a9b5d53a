"""How good a space is: for finding, for words, for labels, and by its shape.

Every measurement takes a ``Collection`` or a ``Model`` and returns a ``Report`` of ``Figure``s.
Two models are compared by measuring both on the same things and taking ``differences``.
"""
