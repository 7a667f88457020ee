"""Graphs under construction: sizes, typed tensors, emission, simplification. No calculus."""
