"""Pretraining methods under one budget, one data pipeline and one evaluation: `avemo compare`.

methods   words of the command line → configs, and the stages that train, probe and search with each
counting  a config → FLOPs of a training step and parameters, in a process of its own
scores    what those stages left behind → rows, and a table
page      the rows → one page
"""
