"""Containment: programs run in a process of their own, within limits and behind the walls that this machine has.

The walls, from the one that every machine has to the strongest; each holds what the others leave open:

- *limits*: an empty environment, closed file descriptors, a session of its own, resource limits of the kernel (address
  space, CPU time, size of a file), a deadline and a bound on what it prints, after which the whole group is killed;
- *seccomp* (Linux on x86-64 and ARM64): no other process, no socket, none of the calls by which programs leave jails;
- *landlock* (Linux 6.2 or later): no file but those granted, without root and without a helper program;
- *bubblewrap*: what is not granted does not even exist: namespaces of files, processes, network and users.

:mod:`agentsys.containment.walls` says which a machine has, and what they do not hold.
"""
