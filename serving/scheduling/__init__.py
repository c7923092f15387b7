"""Which call runs where and when: pure code, without clock, threads or engines.

The asyncio dispatcher and the simulator drive the same objects; ``now`` is always an argument, in unix seconds.
"""
