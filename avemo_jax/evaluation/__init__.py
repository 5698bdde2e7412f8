"""Judging representations: scores and their intervals, splits, probes, and the table they end in.

metrics, intervals    predictions → scores, 95 % intervals by speaker
sums, groups          scores that follow from sums over clips; of groups of speakers, and how far these are apart
labelled, protocols   a prepared folder → labelled clips → who is trained on, who is tested
features, baselines   one batch of clips → named vectors of a network, or plain statistics without one
extraction            every clip once → feature matrices of several networks
cache, gathering      the same, kept between probes, in the order of labelled clips
cross_corpus          two folders under common names: one to train on, one to test on
heads, probes         a feature matrix → predictions of a small head on every split; logistic, lbfgs: the linear one's
judging, probing      → one row of results; a checkpoint and a folder → all rows
questions, paired     which rows may be put side by side; two probes, or runs, compared clip by clip
suites, predicted     questions asked of models; of the predictions that probes and fine-tuned runs leave
partition, views      who a fine-tuning run is trained on, chosen by, tested on; its outputs for them
windows, stitching    windows of long recordings → sequences, and scores over the whole
outcomes              outputs and targets → scores with intervals; outcome_files: → a table and files
identity              how well features tell speakers apart
nearest, rollout      clips near each other; which tokens reach a clip's vector by attention
retrieval             does the sound of a clip find its picture among all
runs                  a run's folder → plain data
report                rows → a printed table and files; aligning: its columns
"""
