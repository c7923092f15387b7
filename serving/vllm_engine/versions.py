"""What differs between the versions of vLLM that the engine runs on, and which those are.

vLLM's scheduler is not a public interface. These versions were read, and 0.28 and 0.32 run on a CPU; another one is
refused rather than trusted.
"""

from __future__ import annotations

from typing import Any, Final

from agentsys.errors import ServingError

OLDEST: Final = (0, 24)
NEWEST: Final = (0, 32)
_STALE_OUTPUT_SINCE: Final = (0, 28)


class VllmMissingError(ServingError):
    """vLLM is not installed in this environment."""

    code = "AGS-0440"
    remedy = "Install the extra: `pip install 'agentsys-runtime[vllm]'`, or use the in-process engine."


class VllmVersionError(ServingError):
    """The installed vLLM is older or newer than what the engine's scheduler knows."""

    code = "AGS-0442"
    remedy = "Install a version from 0.24 to 0.32, or serve the model with `vllm serve` and name its URL."


def checked_version() -> tuple[int, int]:
    """Return major and minor of the installed vLLM.

    Raises :class:`VllmMissingError`, or :class:`VllmVersionError` for one outside the range.
    """
    try:
        import vllm
    except ImportError as error:
        raise VllmMissingError(f"vLLM cannot be imported: {error}.") from error
    return supported(str(vllm.__version__))


def supported(version: str) -> tuple[int, int]:
    """Return major and minor of a version's name, such as ``0.32.0+cpu``; raises :class:`VllmVersionError`."""
    numbers = version.split(".")
    try:
        found = int(numbers[0]), int(numbers[1])
    except (ValueError, IndexError) as error:
        raise VllmVersionError(f"vLLM calls its version {version!r}, which is no number.") from error
    if not OLDEST <= found <= NEWEST:
        span = f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"
        raise VllmVersionError(f"vLLM {version} is installed; its scheduler is known for {span}.")
    return found


def may_run_ahead(version: tuple[int, int], device: str) -> bool:
    """Say whether steps may be scheduled before the one before has ended.

    vLLM on a CPU cannot. Before 0.28 a request preempted while its output was on the way could lose a token.
    """
    return device != "cpu" and version >= _STALE_OUTPUT_SINCE


def refusals() -> tuple[type[Exception], ...]:
    """Return the kinds of error by which vLLM refuses a request; in newer versions they are no ``ValueError``."""
    from vllm import exceptions

    return ValueError, getattr(exceptions, "VLLMClientError", ValueError)


def waiting_queues(scheduler: Any) -> list[Any]:
    """Return the queues that requests wait in; since 0.29 the skipped ones stay in ``waiting``."""
    names = ("waiting", "skipped_waiting", "kv_holding_waiting")
    return [getattr(scheduler, name) for name in names if hasattr(scheduler, name)]


def set_most_running(scheduler: Any, most: int) -> None:
    """Set how many requests may run at once; newer versions tell it apart from the slots of the model runner."""
    name = "max_num_active_reqs" if hasattr(scheduler, "max_num_active_reqs") else "max_num_running_reqs"
    setattr(scheduler, name, most)


def note_preempted(scheduler: Any, request_id: str) -> None:
    """Make a request that is resumed in the step that preempted it reach the model runner whole."""
    scheduler.prev_step_scheduled_req_ids.discard(request_id)


def report_preempted(output: Any, request_ids: set[str]) -> None:
    """Name the requests preempted before ``schedule`` in its output, which versions before 0.28 forget."""
    output.preempted_req_ids = (output.preempted_req_ids or set()) | request_ids


def cap_all_prefills(scheduler: Any, chunk: int) -> None:
    """Where vLLM does not ask for each prefill's share (before 0.27), cap those of all requests alike; 0: no cap."""
    if not any("_reserve_prefill_lookahead" in vars(base) for base in _bases_in_vllm(scheduler)):
        scheduler.scheduler_config.long_prefill_token_threshold = chunk


def _bases_in_vllm(scheduler: Any) -> list[type]:
    return [base for base in type(scheduler).__mro__ if base.__module__.startswith("vllm.")]
