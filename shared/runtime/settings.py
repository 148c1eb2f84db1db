"""Settings of a worker process: the shared ones and what the runtime needs."""

from pydantic import Field

from shared.settings import SharedSettings
from shared.thread_count import allowed_cores


class WorkerSettings(SharedSettings):
    """One stage worker. Also holds for the workers of the embedded mode."""

    health_host: str = "0.0.0.0"  # noqa: S104 - probes and Prometheus come from other hosts
    threads: int = Field(default=0, ge=0)  # of OpenMP, BLAS and numba in the child; 0: as many as allowed cores
    tasks_per_child: int = Field(default=50, ge=1)  # then a fresh child: whatever a native library leaks ends with it
    child_start_s: float = Field(default=180.0, gt=0)  # imports and the first compilation of kernels on a slow disk
    memory_check_s: float = Field(default=0.5, gt=0)
    stop_poll_s: float = Field(default=2.0, gt=0)  # a cancelled job's child ends within 5 s
    input_patience_s: float = Field(default=10.0, gt=0)  # store or disk away for longer before it computes: the message waits in retry.10s
    transfers: int = Field(default=8, ge=1)  # files up or down at once
    dependency_check_s: float = Field(default=10.0, gt=0)  # how often readiness asks broker and store
    blocked_loop_warn_s: float = Field(default=5.0, gt=0)
    blocked_loop_exit_s: float = Field(default=120.0, gt=0)  # a loop blocked this long never comes back

    def thread_count(self) -> int:
        """Threads that the child's libraries may use."""
        return self.threads or allowed_cores()
