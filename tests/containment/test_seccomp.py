"""The filter is what the table says, on both architectures: it is run here by a model of the kernel's machine."""

from __future__ import annotations

import struct

import pytest

from agentsys.containment import seccomp

ALLOWED, KILLED, NO_SUCH_CALL = "allowed", "killed", 38
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def verdict(program: bytes, number: int, audit: int, argument: int = 0, second: int = 0) -> object:
    """Interpret the filter on one system call, as the kernel does."""
    data = struct.pack("<IIQ6Q", number, audit, 0, argument, second, *[0] * 4)
    code = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    accumulator, at = 0, 0
    while True:
        operation, if_so, if_not, operand = code[at]
        at += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif operation == 0x06:
            return {0x7FFF0000: ALLOWED, 0x80000000: KILLED}.get(operand, operand & 0xFFFF)
        else:
            holds = {0x15: accumulator == operand, 0x35: accumulator >= operand, 0x45: bool(accumulator & operand)}
            at += if_so if holds[operation] else if_not


@pytest.mark.parametrize("machine", AUDIT)
def test_refused_calls_are_refused_and_no_others(machine: str) -> None:
    column = list(AUDIT).index(machine)
    program = seccomp.syscall_filter(network=False, machine=machine)
    refused = {numbers[column] for numbers in seccomp._REFUSED.values()} | {(41, 198)[column]}
    special = {(56, 220)[column], 435, (302, 261)[column]}
    for number in range(600):
        expected = 1 if number in refused else ALLOWED
        if number not in special:
            assert verdict(program, number, AUDIT[machine]) == expected, number
    assert verdict(program, 435, AUDIT[machine]) == NO_SUCH_CALL


@pytest.mark.parametrize("machine", AUDIT)
def test_threads_but_no_processes_own_limits_but_no_others(machine: str) -> None:
    column = list(AUDIT).index(machine)
    program = seccomp.syscall_filter(network=False, machine=machine)
    clone, prlimit = (56, 220)[column], (302, 261)[column]
    assert verdict(program, clone, AUDIT[machine], 0x00010000 | 0x100) == ALLOWED
    assert verdict(program, clone, AUDIT[machine], 0x11) == 1
    assert verdict(program, prlimit, AUDIT[machine], 0) == ALLOWED
    assert verdict(program, prlimit, AUDIT[machine], 4711) == 1


@pytest.mark.parametrize("machine", AUDIT)
def test_no_owner_of_a_descriptor_is_named_and_other_commands_are_left_alone(machine: str) -> None:
    column = list(AUDIT).index(machine)
    program = seccomp.syscall_filter(network=True, machine=machine)
    refused = {(72, 25)[column]: {8, 15}, (16, 29)[column]: {0x8901, 0x8902}}
    for number, commands in refused.items():
        for command in (*range(40), 0x5401, 0x8900, 0x8901, 0x8902, 0x8903):
            expected = 1 if command in commands else ALLOWED
            assert verdict(program, number, AUDIT[machine], 3, command) == expected


def test_another_architecture_is_killed_and_another_convention_refused() -> None:
    program = seccomp.syscall_filter(network=False, machine="x86_64")
    assert verdict(program, 0, 0x40000003) == KILLED
    assert verdict(program, 0x40000000 + 41, AUDIT["x86_64"]) == 1


def test_a_granted_network_leaves_sockets_alone() -> None:
    program = seccomp.syscall_filter(network=True, machine="x86_64")
    assert verdict(program, 41, AUDIT["x86_64"]) == ALLOWED and verdict(program, 101, AUDIT["x86_64"]) == 1
