"""One training step of HiCMAE on the CPU in float32, beside PyTorch: time and peak memory.

    python benchmarks/train_step.py --reference DIR
    python benchmarks/train_step.py --size tiny --steps 5

The step is the one that `avemo train` compiles, on random clips: log-mel, masks, forward, backward, AdamW. The peer
is the model of HiCMAE's reference from a checkout in DIR (github.com/sunlicai/HiCMAE; none of its code is here), with
targets, losses and AdamW as its engine has them and inputs that its loader has normalised already; without
`--reference` it is `avemo_jax/convert/torch_model.py`, the same model without drop path. Mixup is on neither side.

Each side has a process of its own with the same number of cores; its peak of memory is that of the steps, after
compiling. Of timm the reference needs four names, which are given to it here where timm cannot be imported. Needs
`avemo_jax[torch]`, and einops for the reference.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import sys
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import measuring
import numpy as np

CONFIGS = {"pretrain": "pretrain/hicmae", "finetune": "finetune/crema_d"}
CLASSES = 6


def main() -> None:
    flags = measuring.flags(__doc__)
    add = flags.add_argument
    add("--reference", help="checkout of HiCMAE's code to compare with")
    add("--size", default="base", help="of the model: demo, tiny, small, base, large, huge (base)")
    add("--tasks", nargs="+", default=list(CONFIGS), choices=list(CONFIGS), help="which steps (both)")
    add("--batch", type=int, default=4, help="clips (4)")
    add("--steps", type=int, default=3, help="to measure, after one that is not (3)")
    add("--cores", type=int, default=1, help="for each side (1)")
    add("--remat", default="none", help="of our config: none, dots or full (none)")
    add("--config", nargs="*", default=[], metavar="KEY=VALUE", help="values of both sides' config")
    args = flags.parse_args()
    measuring.need("torch", "the peer")
    if args.reference:
        measuring.need("einops", "the reference")
        if not (Path(args.reference) / "modeling_pretrain_av.py").is_file():
            raise SystemExit(f"{args.reference}: no checkout of HiCMAE (--reference)")
    steps = {task: compare(task, args) for task in args.tasks}
    wanted = {}
    for task, found in steps.items():
        wanted[f"{task}: CPU time, times the peer"] = (found["time_ratio"], "at most", 1.0)
        wanted[f"{task}: peak memory, times the peer"] = (found["memory_ratio"], "at most", 0.8)
    figures = {
        "peer": "HiCMAE's reference" if args.reference else "torch_model.py",
        "size": args.size,
        "batch": args.batch,
        "cores": args.cores,
        "remat": args.remat,
        "steps": steps,
        "goals": measuring.goals(wanted),
        "machine": measuring.machine("jax", "torch"),
    }
    measuring.report(args, figures, text(figures))


def compare(task: str, args: argparse.Namespace) -> dict[str, Any]:
    threads = {name: str(args.cores) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    run = lambda side: measuring.apart(  # noqa: E731
        side, task, args, cores=args.cores, env={"JAX_PLATFORMS": "cpu", **threads}
    )
    ours, peer = run(our_step), run(torch_step)
    return {
        "ours": ours,
        "peer": peer,
        "time_ratio": ours["cpu_s"] / peer["cpu_s"],
        "memory_ratio": ours["peak_gib"] / peer["peak_gib"],
    }


def our_step(task_name: str, args: argparse.Namespace) -> dict[str, float]:
    """Measures the step that `avemo train` runs."""
    import jax

    from avemo_jax.tasks import make_task
    from avemo_jax.training import mesh as mesh_lib
    from avemo_jax.training import state as state_lib
    from avemo_jax.training.optimizer import make_optimizer
    from avemo_jax.training.schedules import schedules_of
    from avemo_jax.training.step import Given, make_step

    values = {"batch_size": args.batch, "dtype": "float32", "remat": args.remat, "total_steps": 1000}
    config = _config(task_name, args, [f"{key}={value}" for key, value in values.items()])
    task, mesh = make_task(config), mesh_lib.make_mesh(config.mesh, jax.devices()[:1])
    init_key, run_key = state_lib.run_keys(0)
    graphdef, params = state_lib.abstract_params(task, init_key)
    schedules = schedules_of(config, 1000)
    optimizer = make_optimizer(config, params, schedules)
    target = state_lib.with_shardings(state_lib.abstract_state(params, optimizer), mesh)
    state = state_lib.create_state(task, optimizer, init_key, mesh)
    given = Given(np.asarray(jax.random.key_data(run_key)), schedules)
    given = jax.device_put(given, mesh_lib.shardings(given, mesh))
    shapes = task.batch_shapes()
    began = time.process_time()
    stepping = make_step(task, graphdef, target, shapes, given, mesh)
    step = stepping.lower(target, shapes, given).compile()
    compiling_s = time.process_time() - began
    batch = jax.device_put(_our_batch(shapes), mesh_lib.batch_shardings(shapes, mesh))

    def one() -> float:
        nonlocal state
        state, metrics = step(state, batch, given)
        return float(metrics["loss"])

    return {**_measured(one, args.steps), "compiling_cpu_s": compiling_s}


def torch_step(task: str, args: argparse.Namespace) -> dict[str, float]:
    """Measures a step of the peer in PyTorch."""
    import torch

    torch.set_num_threads(args.cores)
    torch.manual_seed(0)
    make = (_reference if args.reference else _torch_model)(task, args)
    model, loss_of = make.train(), (_pretraining if task == "pretrain" else _classifying)(task, args)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-5, betas=(0.9, 0.95))

    def one() -> float:
        loss = loss_of(model)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        optimizer.step()
        return loss.item()

    return {**_measured(one, args.steps), "compiling_cpu_s": 0.0}


def _measured(one: Callable[[], float], steps: int) -> dict[str, float]:
    """CPU and wall seconds of a step (the median), and the most memory that the process held during them."""
    one()  # allocates what lives on
    before = _peak_gib()
    ctypes.CDLL(None).malloc_trim(0)  # what compiling has freed goes back to the system,
    Path("/proc/self/clear_refs").write_text("5")  # and the peak counts from here on
    cpu, wall = [], []
    for _ in range(steps):
        began = time.process_time(), time.monotonic()
        loss = one()
        cpu.append(time.process_time() - began[0])
        wall.append(time.monotonic() - began[1])
    if not np.isfinite(loss):
        raise SystemExit(f"the loss became {loss}")
    peak = _peak_gib()
    return {
        "cpu_s": statistics.median(cpu),
        "wall_s": statistics.median(wall),
        "peak_gib": peak,
        "peak_of_process_gib": max(before, peak),
        "loss": loss,
    }


def _peak_gib() -> float:
    """The most memory that this process held, since it began or since its peak was cleared."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 2**20


def _our_batch(shapes: dict[str, Any]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    batch = {}
    for name, of in shapes.items():
        batch[name] = np.zeros(of.shape, of.dtype)
        if name in ("video", "waveform"):
            batch[name] = rng.integers(0, 255, of.shape).astype(of.dtype)
    batch["waveform_length"] += shapes["waveform"].shape[1]
    batch["position"] += np.arange(len(batch["position"]), dtype=np.int32)
    return batch


def _config(task: str, args: argparse.Namespace, overrides: Sequence[str] = ()) -> Any:
    """The task's config with those of the values given that it has, one mask a clip, nothing augmented."""
    from avemo_jax.config import keys_of, load_config

    name = f"{CONFIGS[task]}:{args.size}"
    known = set(keys_of(load_config(name)))
    plain = ("mask.repeats=1", "mix.probability=0.0", "augment.crop_area=(1.0,1.0)", "augment.flip=0.0")
    wanted = [*args.config, *plain, "augment.erase=0.0", *overrides]
    return load_config(name, [each for each in wanted if each.partition("=")[0] in known])


def _torch_model(task: str, args: argparse.Namespace) -> Any:
    from avemo_jax.convert import torch_model

    model = _config(task, args).model
    sizes = {name: model[name] for name in ("dim", "heads", "depth", "fusion_depth")}
    if task == "finetune":
        return torch_model.Classifier(**sizes, classes=CLASSES)
    more = {name: model[name] for name in ("decoder_dim", "decoder_heads", "decoder_depth", "skip_layers")}
    return torch_model.PretrainingModel(**sizes, **more)


def _reference(task: str, args: argparse.Namespace) -> Any:
    """The reference's model of these sizes, by its own classes."""
    import functools

    import torch

    _give_timm()
    sys.path.insert(0, args.reference)
    model = _config(task, args).model
    sound = (model.audio_frames, model.mel_bins)
    shared = {
        "img_size": model.image_size,
        "img_size_audio": sound,
        "qkv_bias": True,
        "norm_layer": functools.partial(torch.nn.LayerNorm, eps=1e-6),
        "drop_path_rate": model.drop_path,
    }
    if task == "finetune":
        from modeling_finetune_av import AudioVisionTransformer

        sides = {
            f"{name}{side}": model[ours] for side in ("", "_audio") for name, ours in _CLASSIFIER.items()
        }
        return AudioVisionTransformer(
            **shared,
            **sides,
            num_classes=CLASSES,
            all_frames=model.frames,
            fusion_depth=model.fusion_depth,
            fusion_num_heads=model.heads,
            init_scale=0.001,
        )
    from modeling_pretrain_av import PretrainAudioVisionTransformer

    sides = {f"{name}{side}": model[ours] for side in ("", "_audio") for name, ours in _PRETRAINER.items()}
    return PretrainAudioVisionTransformer(
        **shared,
        **sides,
        encoder_fusion_depth=model.fusion_depth,
        encoder_fusion_num_heads=model.heads,
        return_intermediate_features=model.skip_layers,
    )


_CLASSIFIER = {"embed_dim": "dim", "depth": "depth", "num_heads": "heads"}
_PRETRAINER = {
    "encoder_embed_dim": "dim",
    "encoder_depth": "depth",
    "encoder_num_heads": "heads",
    "decoder_embed_dim": "decoder_dim",
    "decoder_depth": "decoder_depth",
    "decoder_num_heads": "decoder_heads",
}


def _give_timm() -> None:
    """The four names of timm that the reference's models import, where there is no timm that works here."""
    try:
        import timm.models.layers  # noqa: F401
    except Exception:  # also one that is broken beside another torchvision
        import torch
    else:
        return

    def drop_path(x, drop_prob=0.0, training=False):
        if not drop_prob or not training:
            return x
        kept = torch.rand(len(x), *[1] * (x.ndim - 1)) >= drop_prob
        return x * kept / (1 - drop_prob)

    layers = types.ModuleType("timm.models.layers")
    layers.drop_path, layers.trunc_normal_ = drop_path, torch.nn.init.trunc_normal_  # type: ignore[attr-defined]
    layers.to_2tuple = lambda x: x if isinstance(x, tuple) else (x, x)  # type: ignore[attr-defined]
    registry = types.ModuleType("timm.models.registry")
    registry.register_model = lambda function: function  # type: ignore[attr-defined]
    for name in [name for name in sys.modules if name.split(".")[0] == "timm"]:
        del sys.modules[name]
    for module in (types.ModuleType("timm"), types.ModuleType("timm.models"), layers, registry):
        sys.modules[module.__name__] = module


def _pretraining(task: str, args: argparse.Namespace) -> Callable[[Any], Any]:
    """model → loss of pretraining, on one batch: errors of normalised patches and frame differences, contrast."""
    import torch
    import torch.nn.functional as F

    config = _config(task, args)
    model_config, batch = config.model, args.batch
    frames, side = model_config.frames, model_config.image_size
    video = torch.randn(batch, 3, frames, side, side)
    sound = torch.randn(batch, 1, model_config.audio_frames, model_config.mel_bins)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    cells, rows = (side // 16) ** 2, sound.shape[2] // 16 * (sound.shape[3] // 16)

    def hidden(tokens, ratio):
        return torch.rand(batch, tokens).argsort(1) < int(ratio * tokens)

    def standardised(patches):  # over the pixels of a patch
        return (patches - patches.mean(-2, keepdim=True)) / (patches.var(-2, keepdim=True).sqrt() + 1e-6)

    def loss_of(model):
        masks = (
            hidden(cells, config.mask.video_ratio).repeat(1, frames // 2),
            hidden(rows, config.mask.audio_ratio),
        )
        with torch.no_grad():
            x = (video * std + mean).view(batch, 3, frames // 2, 2, side // 16, 16, side // 16, 16)
            x = x.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(batch, -1, 512, 3)
            x = standardised(x).reshape(batch, -1, 2, 768)
            x = torch.stack([x[:, :, 0], x[:, :, 1] - x[:, :, 0]], 2).flatten(2)
            y = sound.view(batch, sound.shape[2] // 16, 16, sound.shape[3] // 16, 16)
            y = standardised(y.permute(0, 1, 3, 2, 4).reshape(batch, -1, 256, 1)).flatten(2)
            wanted = [
                whole[mask].view(batch, -1, whole.shape[-1])
                for whole, mask in zip((x, y), masks, strict=True)
            ]
        if args.reference:
            out = model(video, masks[0], sound, masks[1])
            logits = out[2]
        else:
            out = model(video, sound, *masks)
            logits = out.contrast_logits()
        match = torch.arange(batch)
        contrast = (
            sum(F.cross_entropy(level, match) + F.cross_entropy(level.T, match) for level in logits) / 2
        )
        return (
            F.mse_loss(out[0], wanted[0]) + F.mse_loss(out[1], wanted[1]) + config.contrast.weight * contrast
        )

    return loss_of


def _classifying(task: str, args: argparse.Namespace) -> Callable[[Any], Any]:
    """model → loss of fine-tuning, on one batch."""
    import torch
    import torch.nn.functional as F

    model_config = _config(task, args).model
    video = torch.randn(args.batch, 3, model_config.frames, model_config.image_size, model_config.image_size)
    sound = torch.randn(args.batch, 1, model_config.audio_frames, model_config.mel_bins)
    labels = torch.arange(args.batch) % CLASSES

    def loss_of(model):
        out = model(video, sound)
        return F.cross_entropy(out if args.reference else out[0], labels, label_smoothing=0.1)

    return loss_of


def text(figures: dict[str, Any]) -> str:
    rows = [["", "CPU s a step", "wall s", "peak GiB", "with compiling", "loss"]]
    for task, found in figures["steps"].items():
        for side, name in (("ours", "avemo_jax"), ("peer", figures["peer"])):
            its = found[side]
            numbers = (
                f"{its['cpu_s']:.2f}",
                f"{its['wall_s']:.2f}",
                f"{its['peak_gib']:.2f}",
                f"{its['peak_of_process_gib']:.2f}",
                f"{its['loss']:.3f}",
            )
            rows.append([f"{task}, {name}", *numbers])
        ratios = (f"{found['time_ratio']:.2f}", "", f"{found['memory_ratio']:.2f}", "", "")
        rows.append([f"{task}, ratio", *ratios])
    return (
        f"hicmae:{figures['size']}, {figures['batch']} clips, float32, {figures['cores']} cores a side, "
        f"remat {figures['remat']}\n\n{measuring.table(rows)}"
    )


if __name__ == "__main__":
    main()
