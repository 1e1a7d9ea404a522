"""Diffusers models as priors."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.errors import CheckpointError, require_choice
from wellposed.priors.prior import NetworkPrior
from wellposed.priors.schedule import Flow, Schedule, Tabulated

PREDICTION_TYPES = {"epsilon": "noise", "sample": "sample", "v_prediction": "velocity"}


class _Call(nn.Module):
    """Gives a diffusers model the plain call ``network(x, label) -> tensor``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return self.model(x, label, return_dict=False)[0]


class DiffusersPrior(NetworkPrior):
    """An unconditional diffusers ``UNet2DModel`` with its scheduler.

    Schedulers with ``alphas_cumprod`` (DDPM, DDIM, PNDM, DPM-Solver, ...) become a tabulated
    schedule, flow-matching ones `Flow`.

    Args:
        unet: the network, e.g. ``diffusers.UNet2DModel``.
        scheduler: a diffusers scheduler or its config (a mapping).
        data_range: public values of -1 and 1 in the network; [0, 1] images by default.
        is_complex: two real channels stand for one complex one.
    """

    def __init__(
        self,
        unet: nn.Module,
        scheduler: Any,
        data_range: tuple[float, float] = (0.0, 1.0),
        is_complex: bool = False,
    ) -> None:
        config = dict(getattr(scheduler, "config", scheduler))
        schedule: Schedule
        if "Flow" in str(config.get("_class_name", type(scheduler).__name__)):
            train_steps = float(config.get("num_train_timesteps", 1000))
            schedule, prediction = Flow(), "flow"
            label = lambda t: train_steps * t  # noqa: E731
        else:
            schedule, label = Tabulated.from_diffusers(scheduler), None
            kind = str(config.get("prediction_type", "epsilon"))
            prediction = PREDICTION_TYPES[
                require_choice("prediction_type", kind, PREDICTION_TYPES)
            ]
        channels = int(unet.config.in_channels)  # type: ignore[union-attr]
        super().__init__(
            _Call(unet.eval().requires_grad_(False)),
            schedule,
            prediction,
            label,
            channels=channels // 2 if is_complex else channels,
            is_complex=is_complex,
            data_range=(-1.0, 1.0) if is_complex and data_range == (0.0, 1.0) else data_range,
        )

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        data_range: tuple[float, float] = (0.0, 1.0),
        is_complex: bool = False,
    ) -> "DiffusersPrior":
        """Load a diffusers pipeline folder or hub id (``unet/`` and ``scheduler/`` inside).

        Weights are read from safetensors only, so that nothing is unpickled.

        Raises:
            CheckpointError: not found, or without an unconditional U-Net and a scheduler.
        """
        from diffusers import UNet2DModel
        from diffusers.schedulers import SchedulerMixin
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        local = Path(path).is_dir()
        try:
            nested = not local or (Path(path) / "unet").is_dir()
            where = {"subfolder": "unet"} if nested else {}
            unet = UNet2DModel.from_pretrained(
                str(path),
                use_safetensors=True,
                local_files_only=local,
                torch_dtype=torch.float32,
                **where,
            )
            where = (
                {"subfolder": "scheduler"}
                if not local or (Path(path) / "scheduler").is_dir()
                else {}
            )
            config, _ = DDPMScheduler.load_config(
                str(path), return_unused_kwargs=True, local_files_only=local, **where
            )
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"path: {str(path)!r} is no diffusers folder or hub id with an unconditional "
                f"UNet2DModel (safetensors) and a scheduler: {error}"
            ) from error
        assert issubclass(DDPMScheduler, SchedulerMixin)
        return cls(unet, config, data_range, is_complex)
