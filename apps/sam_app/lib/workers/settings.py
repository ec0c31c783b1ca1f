"""What workers are: told to those who start them, without Ray."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WorkerSettings:
    """What workers are.

    Args:
        least: How many there are at least.
        most: And at most: Ray Serve starts more while images wait, and ends them when none did for five minutes.
        cores: Cores, and threads, of each.
        token: Who does not have it is refused.
        specs: The models as pickled :class:`~lib.sam.models.registry.ModelSpec`, the default one first; pickled, as
            who only starts workers need not load what they need.
        model_folder: Where the checkpoints are; None: in the installation's model folder.
        precision: As for :class:`~lib.sam.engine.Engine`.
    """

    least: int
    most: int
    cores: int
    token: str
    specs: bytes
    model_folder: str | None = None
    precision: str | None = None


@dataclass(frozen=True)
class Deployment:
    """Workers to start.

    Args:
        settings: What they are; with ``least`` 0, as many as a cluster has cores for.
        cluster: The Ray cluster's address, ``ray://host:port``; None: on this machine, by a Ray of their own.
        port: Where they answer.
        temporary: Folder for the files of a Ray of their own.
    """

    settings: WorkerSettings
    cluster: str | None
    port: int
    temporary: str | None
