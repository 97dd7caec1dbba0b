"""How many replicas a load needs: a discrete-event simulation of engines with measured throughput.

Not covered: engines that fail or start meanwhile, loads that are not Poisson, prompts that cost much more than those of
the measurement. See ``docs/scaling.md`` for what breaks first at which size.
"""
