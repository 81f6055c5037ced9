"""Entry points that run by the clock: in a cluster as CronJobs, on this machine by a loop.

`declared` is the file, `due` decides, `cronjob` and `rayjob` render, `records` and `children` are what the loop in `run` uses.
"""
