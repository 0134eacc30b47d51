"""What would be wrong under a Hugging Face Trainer, refused with what to do about it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset

from data_agent.errors import CheckpointError, InputError
from data_agent.integrations._recipe import steps_of_epoch
from data_agent.loading.indexed import IndexedDataset
from data_agent.losses import SampleLosses
from data_agent.runtime import checkpoint as files
from data_agent.selecting.selector import Selector

STATE_FILE = "data_agent.safetensors"


def refuse_what_would_be_wrong(trainer: Any) -> None:
    args, world = trainer.args, trainer.accelerator.num_processes
    config = args.accelerator_config
    liger = args.liger_kernel_config or {}
    split = trainer.get_tp_size() * trainer.get_cp_size() * trainer.get_sp_size()
    wrong = {
        f"n_gpu is {args.n_gpu}: DataParallel's replicas cannot be watched. Start one process for "
        "each GPU (torchrun), or show the process one GPU (CUDA_VISIBLE_DEVICES=0)": args.n_gpu > 1,
        f"train_sampling_strategy is {args.train_sampling_strategy!r}, but the selector decides "
        "which samples come, and shuffles them. Leave it at 'random'": (
            args.train_sampling_strategy != "random"
        ),
        "dispatch_batches=True reads every batch on one process and loses the samples' index. "
        "Leave it at None": bool(config.dispatch_batches),
        "split_batches=True shares each batch among the processes, but an epoch's budget is kept "
        "in whole batches a process. Set it to False, and per_device_train_batch_size": (
            config.split_batches and world > 1
        ),
        "even_batches=False lets processes make different numbers of steps. Set it to True": (
            not config.even_batches and world > 1
        ),
        "enable_jit_checkpoint=True may save between batches and their optimizer step: a resumed "
        "run trains on them twice. Use save_steps": args.enable_jit_checkpoint,
        "use_liger_kernel=True fuses the loss into the head, so that there are no logits. Set "
        "liger_kernel_config={'fused_linear_cross_entropy': False}, or use_liger_kernel=False": (
            args.use_liger_kernel and liger.get("fused_linear_cross_entropy", True)
        ),
        "tensor, context or sequence parallelism gives several processes one batch. Use data "
        "parallelism": split > 1,
    }
    for message, is_wrong in wrong.items():
        if is_wrong:
            raise InputError(f"{message}.")
    dataset = trainer.train_dataset
    if dataset is not None and not isinstance(dataset, IterableDataset):
        IndexedDataset(dataset)  # refuses what has no length


def check_rows(samples: SampleLosses, size: int) -> None:
    if len(samples.sums) != size:
        raise InputError(
            f"the batch holds {size} samples, but {len(samples.sums)} losses came. Does the data "
            "collator put several samples into one row? Override compute_sample_losses to return a "
            "row for each sample, or use a collator that pads."
        )


def state_file(checkpoint: str, args: Any) -> Path:
    """Where the selector's state is, in a checkpoint that can be resumed from.

    Args:
        checkpoint: the folder.
        args: the Trainer's.
    """
    if args.ignore_data_skip:
        raise InputError(
            "ignore_data_skip=True starts the interrupted epoch over, so its samples would count "
            "twice. Resume with ignore_data_skip=False."
        )
    path = Path(checkpoint) / STATE_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{checkpoint} holds no {STATE_FILE}: a Trainer without a selector saved it. Resume "
            "from one of SelectiveTrainer, or load the model's weights alone and train without "
            "resume_from_checkpoint."
        )
    return path


def load_selector(selector: Selector, path: Path) -> None:
    """Restore a selector; what does not fit is told in the Trainer's terms."""
    try:
        selector.load_state_dict(files.load(path))
    except CheckpointError as error:
        raise CheckpointError(
            f"{path}: {error} A Trainer's epochs follow from num_train_epochs or max_steps, the "
            "seed is data_seed or seed: a run goes on with those that it began with. To train "
            "longer, begin a new run from the model's weights."
        ) from error


def check_resumed(selector: Selector, args: Any, global_step: int) -> None:
    """A restored selector must stand where the Trainer goes on."""
    due, per_epoch = selector.next_batch(), steps_of_epoch(selector, args)
    step = due.epoch * per_epoch + math.ceil(due.batch / args.gradient_accumulation_steps)
    if step != global_step:
        raise InputError(
            f"the checkpoint is of step {global_step}, but its selector stands at step {step}, "
            f"with {per_epoch} steps an epoch. Resume with the interrupted run's batch size, "
            "gradient_accumulation_steps and number of processes."
        )
