"""A supervised network that takes haze out, as large as one of the priors; for `dehazing.py`.

    python benchmarks/dehazing_unet.py --tissue tissue.h5 --haze haze.h5 --out unet.pt

It maps companded hazy RF to companded tissue and learns on sums of the frames that the priors
learn on, at their random levels. A run that was killed goes on where it was.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from wellposed.datasets.images.crops import Crops
from wellposed.datasets.images.image_files import Collection
from wellposed.datasets.images.reading import Reading
from wellposed.datasets.ultrasound import compand, expand
from wellposed.priors.networks.conv_unet import ConvUNet

WIDTHS, LAYERS = (64, 128, 192), 2
"""The priors' own."""


class Dehazer(nn.Module):
    """Predicts the haze, so that a fresh network returns what it was given."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS, layers: int = LAYERS) -> None:
        super().__init__()
        self.network = ConvUNet(1, widths, layers)

    def forward(self, y: Tensor) -> Tensor:
        """Return companded tissue of companded hazy frames (B, 1, depths, beams)."""
        return y + self.network(y, y.new_zeros(len(y)))

    @torch.no_grad()
    def dehaze(self, rf: Tensor) -> Tensor:
        """Return linear RF of tissue of linear hazy RF."""
        return torch.cat([expand(self(compand(frame))) for frame in rf.split(1)])


def load_dehazer(path: Path) -> Dehazer:
    """Return the averaged network of a checkpoint."""
    state = torch.load(path, weights_only=True, map_location="cpu")
    model = Dehazer(tuple(state["widths"]), state["layers"])
    model.load_state_dict(state["average"])
    return model.eval()


def signal_crops(path: Path, width: int) -> Crops:
    """Return crops of linear RF, changed as the priors' are."""
    stacks = Collection([path], Reading(key="rf")).whole()
    options = {"aspect": 2.0, "flips": "sideways", "polarity": True, "gain": (0.7, 1.4)}
    return Crops(stacks, width, **options)


class HazyCrops(Dataset[tuple[Tensor, Tensor]]):
    """For each step companded hazy crops and companded tissue."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.crops = [signal_crops(path, options.width) for path in (options.tissue, options.haze)]
        self.items = range(options.batch_size)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the batch of a step."""
        tissue, haze = (c.batch(self.items, seed, step) for seed, c in enumerate(self.crops))
        return compand((tissue + haze).clamp(-1, 1)), compand(tissue.clamp(-1, 1))


def train(options: argparse.Namespace) -> None:
    """Train, or go on."""
    torch.manual_seed(0)
    widths = tuple(options.widths)
    model, average = (Dehazer(widths, options.layers).to(options.device) for _ in range(2))
    average.load_state_dict(model.state_dict())
    average.requires_grad_(False)
    optimizer, step, mean = torch.optim.AdamW(model.parameters(), 5e-4, weight_decay=0.0), 0, 0.0
    if options.out.exists():
        state = torch.load(options.out, weights_only=True, map_location=options.device)
        step, mean = state["step"], state["loss"]
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
    todo, workers = range(step, options.steps), options.workers
    loader = DataLoader(HazyCrops(options), None, sampler=todo, num_workers=workers)
    for y, x in loader:
        for group in optimizer.param_groups:  # falls over the last 30 %
            group["lr"] = 5e-4 * min(1.0, (options.steps - step) / (0.3 * options.steps))
        loss = F.mse_loss(model(y.to(options.device)), x.to(options.device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        mean = loss.item() if step == 1 else 0.99 * mean + 0.01 * loss.item()
        keep = min(0.999, (1 + step) / (10 + step))
        torch._foreach_lerp_([*average.parameters()], [*model.parameters()], 1 - keep)
        if step % options.save_every == 0 or step == options.steps:
            print(f"step {step} loss {mean:.5f}", flush=True)
            state = {
                "step": step,
                "loss": mean,
                "widths": options.widths,
                "layers": options.layers,
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
            torch.save(state, options.out.with_suffix(".part"))
            options.out.with_suffix(".part").replace(options.out)


def main(arguments: list[str] | None = None) -> None:
    """Read the options and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tissue", type=Path, required=True)
    parser.add_argument("--haze", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--width", type=int, default=64, help="of the crops; twice as tall")
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS))
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--save-every", type=int, default=200)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare crops")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    train(options)


if __name__ == "__main__":
    main()
