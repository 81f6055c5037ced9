"""Make a checkpoint smaller by a recipe. The maths is the libraries'; `methods` holds one adapter for each.

Read `recipes` first.
"""
