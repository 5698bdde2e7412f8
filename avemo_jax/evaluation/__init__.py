"""Judging representations: scores and their intervals, splits, probes, and the table they end in.

metrics, intervals    predictions → scores, 95 % intervals by speaker
protocols             clips → who is trained on, who is tested
features, statistics  clips → frozen features of a network, or plain statistics of sound and picture
logistic, probes      features → predictions of a linear classifier
labelled              a prepared folder → labelled clips
probing               all of it: a checkpoint and a folder → rows
report                rows → a printed table and files
"""
